/* An application on libfcgi for tests/interop/client.rs: every role, what comes goes back. */
#include <fcgiapp.h>
#include <string.h>

static void echo(FCGX_Request *request)
{
    char buffer[8192];
    int count;

    while ((count = FCGX_GetStr(buffer, sizeof buffer, request->in)) > 0)
        FCGX_PutStr(buffer, count, request->out);
}

int main(int count, char **arguments)
{
    FCGX_Request request;
    int listener;

    if (count != 2 || FCGX_Init() != 0)
        return 2;
    listener = FCGX_OpenSocket(arguments[1], 16);
    if (listener < 0 || FCGX_InitRequest(&request, listener, 0) != 0)
        return 1;
    while (FCGX_Accept_r(&request) == 0) {
        const char *role = FCGX_GetParam("FCGI_ROLE", request.envp);
        FCGX_FPrintF(request.err, "%s\n", role);
        FCGX_PutS("Content-Type: text/plain\r\n\r\n", request.out);
        if (strcmp(role, "AUTHORIZER") != 0)
            echo(&request);
        if (strcmp(role, "FILTER") == 0 && FCGX_StartFilterData(request.in) == 0)
            echo(&request);
        FCGX_SetExitStatus(7, request.out);
        FCGX_Finish_r(&request);
    }
    return 1;
}
