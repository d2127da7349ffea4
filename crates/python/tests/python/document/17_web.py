from fastapi import FastAPI
import asyncio

bus = MessageBus("api")

app = FastAPI()

@app.on_event("startup")
async def start():
    asyncio.create_task(bus.response_loop())

@app.on_event("shutdown")
async def stop():
    await bus.cleanup()

@app.get("/state")
async def get_state():
    resp = await bus.request({"op": "get_state"})
    return {"raw": resp}
