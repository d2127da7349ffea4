class MyBus(MessageBus):
    async def _handle_request(self, request):
        return {"echo": request["data"]}

    async def _handle_pulled_message(self, message):
        # 自定义处理
        pass
