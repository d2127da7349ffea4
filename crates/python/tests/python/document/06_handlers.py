def sync_handler(msg):
    # 计算密集型任务
    pass

async def async_handler(msg):
    await asyncio.sleep(0.01)

bus.register_handler("price.tick", sync_handler)
bus.register_handler("trade.executed", async_handler)
