class Ports:
    GLOBAL_EVENTS = 5555
    TASK_RESULTS = 5556
    STATE_MANAGEMENT = 5557

class Topics:
    PRICE_TICK = "price.tick"
