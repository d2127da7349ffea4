{
  'messages_sent': 15,
  'messages_received': 20,
  'errors': 1,
  'outbound_dropped': 2,
  'inbound_dropped': 0,
  'backpressure_events': 2,
  'request_timeouts': 1,
  'failed_bind_count': 0,
  'active_connections': 5
}
