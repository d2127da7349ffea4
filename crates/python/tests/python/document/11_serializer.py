bus = MessageBus("svc", config={"serializer": "orjson"})
