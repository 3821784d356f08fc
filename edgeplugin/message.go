package edgeplugin

// EnrichedRequest is a caller's request with what gw knows about it. It is the plugin's own copy: to change the request,
// answer with a PluginResponse.
type EnrichedRequest struct {
	// RequestID names the request in gw's access log. A caller may choose it: two requests can have the same, at the same
	// time and of different apps. Remember a request by its ExchangeID.
	RequestID string
	// ExchangeID is gw's own name for the request and its answer, the same at every hook, and no other's.
	ExchangeID string
	Method     string
	// Path is as it was sent, without the query, which is Query. Bytes that are no UTF-8 are escaped ("%FF") in both, and
	// elsewhere replaced by U+FFFD.
	Path, Query string
	Host        string
	// RemoteAddress is the address and port of the caller's connection.
	RemoteAddress string
	// Headers are by their canonical names, "Content-Type". Of a header with several values, all, joined by ", ".
	Headers map[string]string
	// Body is there if the manifest asks for bodies of requests.
	Body []byte
	// BodyOmitted says that there is a body which was asked for and is not here: it is larger than the manifest's MaxBody.
	BodyOmitted bool
	// Target is what the request addresses: "API/orders", "LLM/openai".
	Target string
	// Model is the model the caller names, if that is known by now.
	Model string
	// App is who calls; nil before authentication and for targets without it.
	App *App
}

// App is who makes a request.
type App struct {
	ID, Name string
	// Targets is what the app may call ("API/orders", "LLM/*", "*"), and Policies what its requests must pass. Only an
	// AuthHandler sets them; no Targets means the request's own.
	Targets, Policies []string
}

// EnrichedResponse is an upstream's answer with the request it answers.
type EnrichedResponse struct {
	// Request has no body.
	Request    *EnrichedRequest
	StatusCode int
	Headers    map[string]string
	// Body is there if the manifest asks for bodies of answers and the answer doesn't stream.
	Body        []byte
	BodyOmitted bool
	// Streams: the body goes to the caller piece by piece; status and headers can still be changed. So go event streams, and
	// answers whose length is unknown, unless the manifest asks for bodies and they are documents (JSON, XML, text).
	Streams bool
}

// PluginResponse is what a plugin makes of a request or an answer. The zero value, and nil, let it pass unchanged.
type PluginResponse struct {
	// Modified makes the changes below take effect.
	Modified bool
	// Block ends the request: the caller is answered with StatusCode (0: 403, and 401 from an AuthHandler), Headers and
	// ResponseBody. It is also how a plugin answers by itself, with a StatusCode such as 200.
	Block      bool
	StatusCode int
	// Headers are set: in the answer if Block is set or from OnResponse, otherwise in the request. RemoveHeaders are
	// removed before.
	Headers       map[string]string
	RemoveHeaders []string
	// Body replaces the request's body, if it is not nil. A Content-Encoding goes with the old one, unless Headers has it.
	Body []byte
	// ResponseBody is the caller's answer with Block; from OnResponse it replaces the answer's body, if it is not nil; a
	// Content-Encoding goes with the old one, unless Headers has it.
	ResponseBody []byte
	// ErrorMessage is told the caller in gw's own form of an error if Block is set and ResponseBody is nil, up to 1,000
	// bytes of it.
	ErrorMessage string
	// App is who an AuthHandler says the caller is. The caller's Authorization, X-Api-Key and Api-Key then stay at gw; those
	// in Headers, of this answer or a PostAuthHandler's, go to the upstream.
	App *App
}

// StreamChunk is a piece of an answer that streams, as it came from the upstream: it may end in the middle of an event.
type StreamChunk struct {
	// RequestID, ExchangeID and Target are those of the EnrichedRequest whose answer this is.
	RequestID, ExchangeID, Target string
	// Sequence counts the pieces of an answer from 0.
	Sequence uint64
	Data     []byte
}

// StreamChunkResponse is what a plugin makes of a piece.
type StreamChunkResponse struct {
	// Modified puts Data in the place of the piece; none drops it.
	Modified bool
	Data     []byte
	// Block ends the stream before the piece.
	Block bool
	// ErrorMessage says why, in at most 1,000 bytes.
	ErrorMessage string
}

// EdgePayload is what an edge plugin sent with SendToControl.
type EdgePayload struct {
	Payload                              []byte
	EdgeID, EdgeNamespace, CorrelationID string
	Metadata                             map[string]string
	// EdgeTimestamp is when it was sent by the edge's clock, ReceivedTimestamp when it reached the hub by the hub's, in
	// Unix seconds.
	EdgeTimestamp, ReceivedTimestamp int64
}
