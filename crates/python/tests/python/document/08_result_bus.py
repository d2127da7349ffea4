class ResultBus(MessageBus):
    async def _handle_pulled_message(self, message):
        print("Result:", message)
