// An application on Go's net/http/fcgi for tests/interop/client.rs.
package main

import (
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"os"
	"strconv"
	"sync"
)

var (
	lock    sync.Mutex
	waiting int
	all     = make(chan struct{})
)

// Answers when as many requests are here as the query says.
func together(w http.ResponseWriter, r *http.Request) {
	wanted, _ := strconv.Atoi(r.URL.RawQuery)
	lock.Lock()
	waiting++
	here := all
	if waiting == wanted {
		waiting = 0
		close(all)
		all = make(chan struct{})
	}
	lock.Unlock()
	<-here
	io.WriteString(w, "together\n")
}

// Sends back what comes, while it comes.
func echo(w http.ResponseWriter, r *http.Request) {
	buffer := make([]byte, 64<<10)
	for {
		count, err := r.Body.Read(buffer)
		w.Write(buffer[:count])
		w.(http.Flusher).Flush()
		if err != nil {
			return
		}
	}
}

func main() {
	http.HandleFunc("/together", together)
	http.HandleFunc("/echo", echo)
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		panic(err)
	}
	panic(fcgi.Serve(listener, nil))
}
