class StateBus(MessageBus):
    async def _handle_request(self, request):
        op = request["data"].get("op")
        if op == "get_state":
            return {"state": "OK", "ts": time.time()}
        return {"error": "unknown op"}
