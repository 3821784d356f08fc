package rpc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"gw/raftstore"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Reasons are the stable words of ErrorDetail.
const (
	ReasonInvalid           = "invalid"
	ReasonInvalidResource   = "invalid_resource"
	ReasonNotFound          = "not_found"
	ReasonAlreadyExists     = "already_exists"
	ReasonChanged           = "changed"
	ReasonPrecondition      = "precondition"
	ReasonKeyReused         = "idempotency_key_reused"
	ReasonMissingSecret     = "missing_secret"
	ReasonTooLarge          = "too_large"
	ReasonForbidden         = "forbidden"
	ReasonUnauthenticated   = "unauthenticated"
	ReasonBadCredentials    = "bad_credentials"
	ReasonTooManyTries      = "too_many_tries"
	ReasonTokenUsedUp       = "token_used_up"
	ReasonAlreadyDelivered  = "secret_already_delivered"
	ReasonNotLeader         = "not_leader"
	ReasonNotProposed       = "not_proposed"
	ReasonUnknownOutcome    = "unknown_outcome"
	ReasonInternal          = "internal"
	ReasonCertificateNeeded = "certificate_needed"
	ReasonRemoved           = "removed"
	ReasonRevoked           = "revoked"
	ReasonTooOld            = "too_old"
	ReasonUnreachable       = "unreachable"
	ReasonDiskLow           = "disk_low"
	ReasonOverloaded        = "overloaded"
	ReasonFrozen            = "frozen"
)

// codes says which code a reason travels as; what is not in it is FailedPrecondition.
var codes = map[string]connect.Code{
	ReasonInvalid:           connect.CodeInvalidArgument,
	ReasonInvalidResource:   connect.CodeInvalidArgument,
	ReasonTooLarge:          connect.CodeInvalidArgument,
	ReasonNotFound:          connect.CodeNotFound,
	ReasonAlreadyExists:     connect.CodeAlreadyExists,
	ReasonForbidden:         connect.CodePermissionDenied,
	ReasonRemoved:           connect.CodePermissionDenied,
	ReasonRevoked:           connect.CodePermissionDenied,
	ReasonUnauthenticated:   connect.CodeUnauthenticated,
	ReasonBadCredentials:    connect.CodeUnauthenticated,
	ReasonCertificateNeeded: connect.CodeUnauthenticated,
	ReasonTooManyTries:      connect.CodeResourceExhausted,
	ReasonDiskLow:           connect.CodeResourceExhausted,
	ReasonOverloaded:        connect.CodeResourceExhausted,
	ReasonNotLeader:         connect.CodeUnavailable,
	ReasonNotProposed:       connect.CodeUnavailable,
	ReasonUnknownOutcome:    connect.CodeUnavailable,
	ReasonInternal:          connect.CodeInternal,
}

// refusals says which code a refusal of the state travels as, and its reason if it gives none.
var refusals = map[gwv1.RefusalCode]struct {
	code   connect.Code
	reason string
}{
	gwv1.RefusalCode_REFUSAL_CODE_NOT_FOUND:      {connect.CodeNotFound, ReasonNotFound},
	gwv1.RefusalCode_REFUSAL_CODE_ALREADY_EXISTS: {connect.CodeAlreadyExists, ReasonAlreadyExists},
	gwv1.RefusalCode_REFUSAL_CODE_CHANGED:        {connect.CodeFailedPrecondition, ReasonChanged},
	gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION:   {connect.CodeFailedPrecondition, ReasonPrecondition},
	gwv1.RefusalCode_REFUSAL_CODE_INVALID:        {connect.CodeInvalidArgument, ReasonInvalid},
	gwv1.RefusalCode_REFUSAL_CODE_DENIED:         {connect.CodePermissionDenied, ReasonForbidden},
	gwv1.RefusalCode_REFUSAL_CODE_TOO_LARGE:      {connect.CodeInvalidArgument, ReasonTooLarge},
}

// Error is a refusal made here.
type Error struct {
	// Reason is one of the constants; it decides the code.
	Reason string
	// Message says what is wrong and what to do next.
	Message    string
	Violations []*gwv1.Violation
	// LeaderURL is where the leader is, with ReasonNotLeader.
	LeaderURL string
	// RetryAfter, RetryJitter and FetchURLs are those of gwv1.ErrorDetail, with ReasonOverloaded; RetryJitter with
	// ReasonNotLeader too.
	RetryAfter, RetryJitter time.Duration
	FetchURLs               []string
}

func (e *Error) Error() string { return e.Message }

// detail is what programs are told.
func (e *Error) detail() *gwv1.ErrorDetail {
	d := &gwv1.ErrorDetail{Reason: e.Reason, Violations: e.Violations, LeaderUrl: e.LeaderURL, FetchUrls: e.FetchURLs}
	if e.RetryAfter > 0 {
		d.RetryAfter = durationpb.New(e.RetryAfter)
	}
	if e.RetryJitter > 0 {
		d.RetryJitter = durationpb.New(e.RetryJitter)
	}
	return d
}

func notFound(what, name string) error {
	return &Error{Reason: ReasonNotFound, Message: fmt.Sprintf("there is no %s %q", what, name)}
}

func invalid(field, code, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	return &Error{Reason: ReasonInvalid, Message: field + ": " + message,
		Violations: []*gwv1.Violation{{Field: field, Code: code, Message: message}}}
}

// errorOf is the one table from errors to what callers see: a code, a message, and always one gwv1.ErrorDetail. An error
// it does not know is CodeInternal with a reference and nothing else; log is told the rest. nil stays nil.
func errorOf(ctx context.Context, log *slog.Logger, err error) *connect.Error {
	if err == nil {
		return nil
	}
	code, message, detail := translate(err)
	if code == connect.CodeInternal {
		reference := newReference()
		log.ErrorContext(ctx, "internal error", "reference", reference, "error", err)
		message = "internal error, reference " + reference
	}
	e := connect.NewError(code, errors.New(message))
	if d, err := connect.NewErrorDetail(detail); err == nil {
		e.AddDetail(d)
	}
	if d := detail.GetRetryAfter(); d != nil { // for what knows HTTP and no more
		e.Meta().Set("Retry-After", strconv.Itoa(int(math.Ceil(d.AsDuration().Seconds()))))
	}
	return e
}

func translate(err error) (connect.Code, string, *gwv1.ErrorDetail) {
	var (
		own      *Error
		refused  *raftstore.Refused
		wrong    resource.Errors
		wrongOne *resource.Error
		schema   *protovalidate.ValidationError
		wire     *connect.Error
	)
	switch {
	case errors.As(err, &own):
		return codeOf(own.Reason), err.Error(), own.detail()
	case errors.As(err, &refused):
		return refusal(refused.Refusal)
	case errors.As(err, &wrong):
		return connect.CodeInvalidArgument, err.Error(), &gwv1.ErrorDetail{Reason: ReasonInvalidResource, Violations: wrong.Violations()}
	case errors.As(err, &wrongOne):
		return connect.CodeInvalidArgument, err.Error(), &gwv1.ErrorDetail{Reason: ReasonInvalidResource, Violations: resource.Errors{wrongOne}.Violations()}
	case errors.As(err, &schema):
		return violations(schema)
	case errors.Is(err, raftstore.ErrDiskLow) && !errors.Is(err, raftstore.ErrUnknownOutcome):
		message := fmt.Sprintf("the leader's disk is nearly full, and nothing was changed: make room there (%v)", err)
		return codeOf(ReasonDiskLow), message, &gwv1.ErrorDetail{Reason: ReasonDiskLow}
	}
	for _, known := range []struct {
		is     error
		code   connect.Code
		reason string
	}{
		// Whatever else an error says: what may have been done is never said not to be.
		{raftstore.ErrUnknownOutcome, connect.CodeUnavailable, ReasonUnknownOutcome},
		// These wrap or come with ErrNotProposed.
		{raftstore.ErrMembership, connect.CodeFailedPrecondition, ReasonPrecondition},
		{raftstore.ErrTooLarge, connect.CodeInvalidArgument, ReasonTooLarge},
		{raftstore.ErrNotLeader, connect.CodeUnavailable, ReasonNotLeader},
		{raftstore.ErrNotProposed, connect.CodeUnavailable, ReasonNotProposed},
		{context.Canceled, connect.CodeCanceled, "canceled"},
		{context.DeadlineExceeded, connect.CodeDeadlineExceeded, "deadline_exceeded"},
	} {
		if errors.Is(err, known.is) {
			return known.code, err.Error(), &gwv1.ErrorDetail{Reason: known.reason}
		}
	}
	if errors.As(err, &wire) && wire.Code() != connect.CodeInternal && wire.Code() != connect.CodeUnknown {
		return wire.Code(), wire.Message(), &gwv1.ErrorDetail{Reason: wire.Code().String()}
	}
	return connect.CodeInternal, "", &gwv1.ErrorDetail{Reason: ReasonInternal}
}

func codeOf(reason string) connect.Code {
	if c, ok := codes[reason]; ok {
		return c
	}
	return connect.CodeFailedPrecondition
}

func refusal(r *gwv1.Refusal) (connect.Code, string, *gwv1.ErrorDetail) {
	as, ok := refusals[r.GetCode()]
	if !ok {
		as.code, as.reason = connect.CodeFailedPrecondition, ReasonPrecondition
	}
	detail := r.GetDetail()
	if detail == nil {
		detail = &gwv1.ErrorDetail{}
	}
	if detail.Reason == "" {
		detail = &gwv1.ErrorDetail{Reason: as.reason, Violations: detail.Violations}
	}
	return as.code, r.GetMessage(), detail
}

// violations words what the schema found. Values are never in it: they may be secrets.
func violations(e *protovalidate.ValidationError) (connect.Code, string, *gwv1.ErrorDetail) {
	detail := &gwv1.ErrorDetail{Reason: ReasonInvalid}
	var lines []string
	for _, v := range e.Violations {
		field := protovalidate.FieldPathString(v.Proto.GetField())
		detail.Violations = append(detail.Violations, &gwv1.Violation{Field: field, Code: ReasonInvalid, Message: v.Proto.GetMessage()})
		lines = append(lines, field+": "+v.Proto.GetMessage())
	}
	return connect.CodeInvalidArgument, strings.Join(lines, "\n"), detail
}

func newReference() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
