package uplink

import (
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
)

// EnrolmentError is why an edge was not taken in, where trying again would not help.
type EnrolmentError struct {
	// Reason is the hub's stable word, such as "token_used_up"; "" if it gave none.
	Reason string
	// Sentence says what is wrong and what to do.
	Sentence string
	Err      error
}

func (e *EnrolmentError) Error() string { return "enrol: " + e.Sentence }
func (e *EnrolmentError) Unwrap() error { return e.Err }

// Codes of an ApplyFailure.
const (
	CodeCompile = "compile"
	CodeTooOld  = "too_old"
	CodeProbe   = "probe"
	CodeFetch   = "fetch"
	CodeVerify  = "verify"
	CodeStorage = "storage"
	CodePlugin  = "plugin" // one could not be started
)

// ApplyFailure is why a release was not loaded. Compile, too_old and probe failures mean that it will not be tried again;
// the others are.
type ApplyFailure struct {
	// Code is one of the Code constants.
	Code string
	// Kind, Name and Field say where, as far as it is known.
	Kind, Name, Field string
	// Message says what is wrong. It travels to the hub, so it holds no secret.
	Message string
	Err     error
}

func (e *ApplyFailure) Error() string {
	switch {
	case e.Kind != "" && e.Field != "":
		return fmt.Sprintf("%s: %s/%s %s: %s", e.Code, e.Kind, e.Name, e.Field, e.Message)
	case e.Kind != "":
		return fmt.Sprintf("%s: %s/%s: %s", e.Code, e.Kind, e.Name, e.Message)
	default:
		return e.Code + ": " + e.Message
	}
}

func (e *ApplyFailure) Unwrap() error { return e.Err }

// final reports whether the release is not to be tried again.
func (e *ApplyFailure) final() bool {
	return e.Code == CodeCompile || e.Code == CodeTooOld || e.Code == CodeProbe
}

// failure returns err as an ApplyFailure, with code where it says none itself.
func failure(code string, err error) *ApplyFailure {
	var f *ApplyFailure
	if errors.As(err, &f) {
		return f
	}
	return &ApplyFailure{Code: code, Message: err.Error(), Err: err}
}

// refusef makes a failure to verify what a hub sent.
func refusef(format string, args ...any) *ApplyFailure {
	err := fmt.Errorf(format, args...)
	return &ApplyFailure{Code: CodeVerify, Message: err.Error(), Err: err}
}

// Words of a hub: it is the wrong one to ask; the certificate has ended, and only renews itself.
const (
	notLeader         = "not_leader"
	certificateNeeded = "certificate_needed"
)

// reasonOf returns the stable word that a hub's error carries, or "".
func reasonOf(err error) string { return detailOf(err).GetReason() }

// leaderOf returns where a hub says that the leader is, or "".
func leaderOf(err error) string {
	if d := detailOf(err); d.GetReason() == notLeader {
		return d.GetLeaderUrl()
	}
	return ""
}

// messageOf returns what a hub's error says to people.
func messageOf(err error) string {
	var e *connect.Error
	if errors.As(err, &e) {
		return e.Message()
	}
	return err.Error()
}

// detailOf returns what a hub's error carries for programs; nil if nothing.
func detailOf(err error) *gwv1.ErrorDetail {
	var e *connect.Error
	if !errors.As(err, &e) {
		return nil
	}
	for _, d := range e.Details() {
		value, err := d.Value()
		if err != nil {
			continue
		}
		if detail, ok := value.(*gwv1.ErrorDetail); ok {
			return detail
		}
	}
	return nil
}

// answered reports whether err is a hub's own decision, rather than one that wasn't reached or is not able to decide.
func answered(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodePermissionDenied,
		connect.CodeFailedPrecondition, connect.CodeUnauthenticated, connect.CodeUnimplemented, connect.CodeOutOfRange:
		return true
	default:
		return false
	}
}
