package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"gw/node/gateway/llm"
)

// refusal is an answer the gateway gives by itself, in the caller's dialect.
type refusal struct {
	status int
	// class and code are the error's type and stable word.
	class, code string
	message     string
	// param names the field of the body that is wrong.
	param string
	// retryAfter is when a second attempt makes sense; 0: nothing is said.
	retryAfter time.Duration
}

// Classes of errors, as the OpenAI dialect names them.
const (
	classRequest    = "invalid_request_error"
	classPermission = "permission_error"
	classServer     = "server_error"
	classRate       = "rate_limit_error"
)

const statusClientGone = 499 // only in logs and metrics: nobody is there to read it

var (
	noRelease = &refusal{status: http.StatusServiceUnavailable, class: classServer, code: "no_release", retryAfter: time.Second,
		message: "This edge has no configuration yet."}
	badPath = &refusal{status: http.StatusBadRequest, class: classRequest, code: "ambiguous_path",
		message: "The path can be read in more than one way: it is malformed, or hides dot segments or slashes behind escapes."}
	badQuery = &refusal{status: http.StatusBadRequest, class: classRequest, code: "malformed_query",
		message: "The query holds spaces, control characters or a fragment, unescaped."}
	notFound = &refusal{status: http.StatusNotFound, class: classRequest, code: "not_found",
		message: "Nothing is served here."}
	badMethod = &refusal{status: http.StatusMethodNotAllowed, class: classRequest, code: "method_not_allowed",
		message: "The path is not served for this method."}
	noToken = &refusal{status: http.StatusUnauthorized, class: classRequest, code: "invalid_api_key",
		message: `No valid token was given. Send it as "Authorization: Bearer gw_…".`}
	badToken = &refusal{status: http.StatusUnauthorized, class: classRequest, code: "invalid_api_key",
		message: "The token is unknown, has expired or was revoked."}
	tokenUnchecked = &refusal{status: http.StatusServiceUnavailable, class: classServer, code: "token_unchecked", retryAfter: time.Second,
		message: "The token can't be checked at the moment."}
	tooManyUnknown = &refusal{status: http.StatusTooManyRequests, class: classRate, code: "rate_limit_exceeded", retryAfter: time.Second,
		message: "Too many unknown tokens came from your address, so this one is not checked now. It says nothing about the token."}
	forbidden = &refusal{status: http.StatusForbidden, class: classPermission, code: "target_not_allowed",
		message: "The token's app may not call this."}
	policyMissing = &refusal{status: http.StatusServiceUnavailable, class: classServer, code: "policy_not_loaded", retryAfter: 2 * time.Second,
		message: "A policy or target of the token's app is not loaded on this edge."}
	secretMissing = &refusal{status: http.StatusServiceUnavailable, class: classServer, code: "secret_not_loaded", retryAfter: 5 * time.Second,
		message: "The upstream's credential is not known on this edge."}
	secretUnusable = &refusal{status: http.StatusBadGateway, class: classServer, code: "secret_not_usable",
		message: "The upstream's credential can't stand in a header: it holds control characters, such as a line's end."}
	llmNotFound = &refusal{status: http.StatusNotFound, class: classRequest, code: "not_found",
		message: "There is no such LLM."}
	modelNotFound = &refusal{status: http.StatusNotFound, class: classRequest, code: "model_not_found", param: "model",
		message: "The model does not exist or the token's app may not use it."}
	modelMissing = &refusal{status: http.StatusBadRequest, class: classRequest, code: "model_required", param: "model",
		message: `The body must name a model as "{llm}/{model}". What names no model is served at /llm/{name}/v1/.`}
	modelAmbiguous = &refusal{status: http.StatusBadRequest, class: classRequest, code: "model_ambiguous", param: "model",
		message: `The body names a model more than once, or not exactly as "model".`}
	badBody = &refusal{status: http.StatusBadRequest, class: classRequest, code: "invalid_body",
		message: "The body is not what its content type says."}
	badFraming = &refusal{status: http.StatusBadRequest, class: classRequest, code: "malformed_request",
		message: "The request's body is malformed: it breaks the rules of its transfer encoding."}
	badMedia = &refusal{status: http.StatusUnsupportedMediaType, class: classRequest, code: "unsupported_media_type",
		message: "To find the model, the body must be JSON or a multipart form, without content encoding."}
	tooLarge = &refusal{status: http.StatusRequestEntityTooLarge, class: classRequest, code: "request_too_large",
		message: "The request's body is larger than this edge forwards."}
	clientSlow = &refusal{status: http.StatusRequestTimeout, class: classRequest, code: "request_timeout",
		message: "The request's body did not arrive in time."}
	overloaded = &refusal{status: http.StatusServiceUnavailable, class: classServer, code: "overloaded", retryAfter: time.Second,
		message: "This edge holds too many requests at the moment."}
	badUpgrade = &refusal{status: http.StatusBadRequest, class: classRequest, code: "upgrade_not_supported",
		message: "This is not served over an upgraded connection."}
	upstreamDown = &refusal{status: http.StatusBadGateway, class: classServer, code: "upstream_unreachable",
		message: "The upstream could not be reached."}
	upstreamSlow = &refusal{status: http.StatusGatewayTimeout, class: classServer, code: "upstream_timeout",
		message: "The upstream did not answer in time."}
	upstreamBroken = &refusal{status: http.StatusBadGateway, class: classServer, code: "upstream_broken",
		message: "The upstream broke off its answer."}
	pluginFailed = &refusal{status: http.StatusServiceUnavailable, class: classServer, code: "plugin_failed", retryAfter: time.Second,
		message: "A plugin that has to agree can't be asked at the moment."}
	clientGone = &refusal{status: statusClientGone, code: "client_gone"}
)

// refuse answers with a refusal, unless an answer has begun: then it only notes the reason.
func (x *exchange) refuse(r *refusal) {
	x.code = r.code
	if x.wroteHeader {
		return
	}
	x.status = r.status
	if r == clientGone {
		x.aborted = true
		return
	}
	h := x.w.Header()
	x.idHeader(h)
	h["X-Gw-Error"] = []string{"1"}
	h["Content-Type"] = []string{"application/json"}
	if r.retryAfter > 0 {
		seconds := max(1, int((r.retryAfter+time.Second-1)/time.Second))
		h["Retry-After"] = []string{strconv.Itoa(seconds)}
	}
	if r.status == http.StatusUnauthorized {
		h["Www-Authenticate"] = []string{"Bearer"}
	}
	var body []byte
	if x.openAI {
		h["X-Request-Id"] = []string{x.id}
		body = r.error().AppendBody(nil)
	} else {
		body = r.appendBody(nil)
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	if x.r.ProtoMajor == 1 && (r == tooLarge || r == clientSlow || r == badFraming || r == overloaded) {
		h["Connection"] = []string{"close"}
	}
	x.lastOfConnection()
	x.leaveBody()
	x.wroteHeader = true
	x.w.WriteHeader(r.status)
	if x.r.Method == http.MethodHead {
		return
	}
	n, _ := x.w.Write(body) // a caller that is gone does not miss it
	x.bytes += int64(n)
}

func (r *refusal) error() llm.Error {
	return llm.Error{Message: r.message, Type: r.class, Code: r.code, Param: r.param}
}

// appendBody appends the body of a refusal outside of the LLM surfaces.
func (r *refusal) appendBody(dst []byte) []byte {
	dst = append(dst, `{"error":{"message":`...)
	dst = gjson.AppendJSONString(dst, r.message)
	dst = append(dst, `,"type":`...)
	dst = gjson.AppendJSONString(dst, r.class)
	dst = append(dst, `,"code":`...)
	dst = gjson.AppendJSONString(dst, r.code)
	return append(dst, "}}\n"...)
}
