package translate

// A messagesSink writes Anthropic's events.
type messagesSink struct {
	s     *stream
	index int64 // of the open block, or of the next
}

// event starts an event; its data must be closed with end.
func (m *messagesSink) event(name string) *out {
	o := &m.s.out
	o.raw("event: ")
	o.raw(name)
	o.raw("\ndata: {\"type\":\"")
	o.raw(name)
	o.raw(`"`)
	return o
}

func (m *messagesSink) end() { m.s.out.raw("}\n\n") }

// start says what the backend has not counted yet as zero; the end tells it.
func (m *messagesSink) start() {
	o := m.event("message_start")
	o.raw(`,"message":{"id":`)
	o.bytes(m.s.head.id)
	o.raw(`,"type":"message","role":"assistant","model":`)
	o.bytes(m.s.head.model)
	o.raw(`,"content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}`)
	m.end()
}

func (m *messagesSink) open(b block) {
	o := m.event("content_block_start")
	o.count("index", m.index)
	if b == blockCall {
		c := m.s.current()
		o.raw(`,"content_block":{"type":"tool_use","id":`)
		o.bytes(c.id)
		o.field("name", c.name)
		o.raw(`,"input":{}}`)
	} else {
		o.raw(`,"content_block":{"type":"text","text":""}`)
	}
	m.end()
	if b == blockCall && m.s.current().custom {
		m.s.reader.err = &Error{Reason: "a call of a tool that takes text"}
	}
}

func (m *messagesSink) text(quoted []byte) {
	o := m.event("content_block_delta")
	o.count("index", m.index)
	if m.s.block == blockCall {
		o.raw(`,"delta":{"type":"input_json_delta","partial_json":`)
	} else {
		o.raw(`,"delta":{"type":"text_delta","text":`)
	}
	o.bytes(quoted)
	o.raw("}")
	m.end()
}

func (m *messagesSink) close(block) {
	o := m.event("content_block_stop")
	o.count("index", m.index)
	m.end()
	m.index++
}

func (m *messagesSink) idle() {
	m.event("ping")
	m.end()
}

func (m *messagesSink) finish(finish string, stop []byte) {
	o := m.event("message_delta")
	o.raw(`,"delta":{`)
	messagesEnd(o, finish, stop)
	o.raw(`},"usage":`)
	m.s.x.messagesUsage(o)
	m.end()
	m.event("message_stop")
	m.end()
}

func (m *messagesSink) fail(status int, message string) {
	o := &m.s.out
	o.raw("event: error\ndata: ")
	messagesError(o, claudeErrorType(status), message)
	o.raw("\n\n")
}
