/* libfcgi's threaded accept loop with the probe's `hello`, for comparison: the shape of libfcgi's own
 * examples/threaded.c.
 *
 *     libfcgi_threaded /path/of.sock THREADS     libfcgi_threaded :PORT THREADS
 *
 * Each thread accepts a connection and serves it to its end, so a server of kept connections needs as
 * many threads as connections. The example's mutex around FCGX_Accept_r is left out, in libfcgi's
 * favour: Linux needs none around accept, and a thread that waits for the next request of a kept
 * connection would hold it and stop all others.
 */
#include <fcgiapp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static int listener;

static void *serve(void *unused)
{
    static const char hello[] =
        "Content-Type: text/plain\r\nContent-Length: 14\r\n\r\nHello, world!\n";
    FCGX_Request request;

    (void)unused;
    if (FCGX_InitRequest(&request, listener, 0) != 0)
        abort();
    while (FCGX_Accept_r(&request) == 0) {
        FCGX_PutStr(hello, sizeof hello - 1, request.out);
        FCGX_Finish_r(&request);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    int threads = count == 3 ? atoi(arguments[2]) : 0;

    if (threads < 1 || threads > 1024) {
        fprintf(stderr, "usage: libfcgi_threaded /path/of.sock|:PORT THREADS (1 to 1024)\n");
        return 2;
    }
    if (FCGX_Init() != 0)
        return 1;
    listener = FCGX_OpenSocket(arguments[1], 1024);
    if (listener < 0)
        return 1;
    for (int i = 1; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL) != 0)
            return 1;
    }
    serve(NULL);
    return 1;
}
