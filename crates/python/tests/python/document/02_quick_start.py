import asyncio
from message_bus import MessageBus, Ports  # 假设文件名为 message_bus.py

async def main():
    bus = MessageBus(
        service_name="analytics",
        config={
            "hwm_outbound": 2000,
            "handler_max_concurrency": 20,
            "serializer": "orjson",  # 或 "json"
        }
    )

    # 注册 SUB 处理函数
    async def on_price(message):
        print("Price update:", message["data"])

    bus.register_handler("price.tick", on_price)

    # 启动订阅循环（监听事件端口）
    asyncio.create_task(bus.subscribe_loop(Ports.GLOBAL_EVENTS, topics=["price.tick"]))

    # 发布一条事件
    await bus.publish("price.tick", {"symbol": "BTC", "price": 43210.5})

    # 启动响应循环（例如状态服务）
    asyncio.create_task(bus.response_loop(Ports.STATE_MANAGEMENT))

    # 发送请求（示例：获取状态）
    resp = await bus.request({"op": "get_state"})
    print("State response:", resp)

    # 推送结果（用于任务流水线）
    await bus.push_result({"task_id": "abc123", "status": "done"})

    # 启动结果拉取循环
    asyncio.create_task(bus.pull_results_loop())

    await asyncio.sleep(2)
    await bus.cleanup()

asyncio.run(main())
