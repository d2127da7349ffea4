tasks = [
    asyncio.create_task(bus.subscribe_loop(Ports.GLOBAL_EVENTS)),
    asyncio.create_task(bus.response_loop(Ports.STATE_MANAGEMENT)),
]
...
await bus.cleanup()
