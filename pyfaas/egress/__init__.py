"""The only way out of VMs: a process of its own that answers their questions for names and connects where their lists allow.

Theory of operation. The keeper executes it, confined before it reads a byte: an own uid, no capabilities, nothing to write, no file
but the interpreter's and the resolver's settings. It holds no token, no database and no tenant's code. The server sends it the doors of
each VM with network: listening sockets that live in the VM's network namespace, made before anything ran there.

    a question for a name   answered here, and never passed on: a listed name has the address that stands for it in this VM
    a connection            the address that was dialled tells name and port; the name is resolved outside, every address of it is
                            checked, and the very address that passed is connected to; then bytes are copied both ways

So a client in the VM finds an ordinary network, and its TLS is with whom it names. Nothing leads elsewhere: an address that stands for
nothing is refused, as is a name that leads to a private range that neither the entry nor the operator allowed. Refusals are a reset of
the connection at once, and a sentence for the function's log.

    options.py    what the process is told when it is executed
    settings.py   the operator's name server and proxy, read
    words.py      what server and egress tell each other
    rules.py      what a VM's plan allows: decisions without I/O
    naming.py     questions for names, as bytes to bytes
    resolving.py  names outside: the system's resolver, the operator's hosts or name server
    reaching.py   from a destination to a connected socket, directly or by the operator's proxy
    flows.py      bytes both ways, with back-pressure and half-close
    doors.py      one VM: its sockets, its limits, what it used
    main.py       the process: the control socket and the beat
"""
