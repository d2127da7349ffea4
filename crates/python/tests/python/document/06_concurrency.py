bus = MessageBus("svc", config={"handler_max_concurrency": 50})
