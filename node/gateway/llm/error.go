// Package llm knows what the dialects of language models look like: pure functions from bytes to usage, errors and model
// names.
package llm

import (
	"github.com/tidwall/gjson"
)

// Error is a refusal as vendors of the OpenAI dialect shape it.
type Error struct {
	// Message is for people, Type is the class ("invalid_request_error") and Code the stable word for programs.
	Message, Type, Code string
	// Param names the field of the request that is wrong; "" is sent as null.
	Param string
}

// AppendBody appends the body of an error response to dst.
func (e Error) AppendBody(dst []byte) []byte {
	dst = append(dst, `{"error":{"message":`...)
	dst = gjson.AppendJSONString(dst, e.Message)
	dst = append(dst, `,"type":`...)
	dst = gjson.AppendJSONString(dst, e.Type)
	dst = append(dst, `,"param":`...)
	if e.Param == "" {
		dst = append(dst, "null"...)
	} else {
		dst = gjson.AppendJSONString(dst, e.Param)
	}
	dst = append(dst, `,"code":`...)
	dst = gjson.AppendJSONString(dst, e.Code)
	return append(dst, "}}"...)
}

// AppendEvent appends the error as the last frame of an event stream: SDKs raise it, and the end without "[DONE]" says
// that the answer is not complete.
func (e Error) AppendEvent(dst []byte) []byte {
	dst = append(dst, "data: "...)
	dst = e.AppendBody(dst)
	return append(dst, "\n\n"...)
}
