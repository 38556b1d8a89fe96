"""Recording a trace: a proxy between any OpenAI client and any OpenAI-compatible server.

Bytes pass through as they arrive, in both directions; what is recorded is read next to them.

    sse        the events of a stream of bytes
    request    what a request says
    answer     what a response says, whole or in pieces
    sessions   which earlier exchange a request continues
    journal    the file
    recorder   from requests and responses to records in the file, and the counts
    proxy      the exchange with client and upstream
    server     listening, stopping
"""
