// Package edgeplugin is what plugins of gw are written with, at the edge and at the hub alike.
//
// A plugin is a process that gw starts. Its main makes a value that embeds BasePlugin and calls Serve with it; what the
// plugin can do follows from the methods it has beyond that:
//
//	PreAuthHandler        looks at a request before the caller is authenticated
//	AuthHandler           authenticates the caller
//	PostAuthHandler       looks at a request when caller and target are known
//	ResponseHandler       looks at the upstream's answer
//	StreamChunkHandler    looks at each piece of an answer that streams
//	EdgePayloadReceiver   takes, at the hub, what plugins at edges sent with SendToControl
//	HealthChecker         says whether the plugin is well
//	ConfigSchemaProvider  describes its configuration, which gw then checks before the plugin sees it
//
// The first six may also be written with a context.Context in the place of Context. At the edge, the resource "Plugin"
// lists the hooks the plugin is called at; naming one that it has no method for is an error that an admin sees.
//
// # Compatibility
//
// Within protocol version 1 exported names keep their meaning and their shape: fields and optional interfaces are added,
// none is removed or changed. A plugin built with this package runs under every gw that speaks version 1, older and newer
// ones; what an older gw doesn't know is not called. The version is agreed on when the process starts, and a gw that
// speaks none of the plugin's versions says so instead of starting it. Only the sub-package pluginv1 is no part of the
// promise.
//
// # Calls
//
// Methods are called from many goroutines at once, once Initialize has returned nil. Each call's context ends at the
// call's deadline (the resource's timeout), after which its result is of no use. An error makes gw treat the request by the
// plugin's on_failure; a panic ends the process, which gw starts again.
//
// A request is the same one at two hooks, and at each piece of its answer, if its ExchangeID is. Its RequestID says nothing
// of the kind: callers choose it.
//
// # What is kept
//
// Services.KV keeps values by key: at the edge on that edge's disk, at the hub replicated to every hub. What
// AcceptEdgePayload writes with its context takes effect exactly once for each payload, however often the call is repeated;
// whatever else it does may happen more than once. SendToControl returns when the payload is on the edge's disk: it will
// reach the hub plugin with the same ID, or be listed as a dead letter, or be counted as expired after a day.
package edgeplugin
