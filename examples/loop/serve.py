"""llama.cpp's HTTP server, by the wheel `xllamacpp`: serve.py PORT MODEL.gguf NAME SLOTS CONTEXT"""

import sys
import time

import xllamacpp

port, model, name, slots, context = sys.argv[1:]
parameters = xllamacpp.CommonParams()
parameters.model.path = model
parameters.model_alias = {name}
parameters.hostnames, parameters.port = ["127.0.0.1"], int(port)
parameters.n_parallel, parameters.n_ctx = int(slots), int(context)
parameters.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(parameters)
while True:
    time.sleep(3600)
