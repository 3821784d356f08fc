package ui

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/ui/page"
)

var (
	errNoPage      = connect.NewError(connect.CodeNotFound, errors.New("there is no such page"))
	errCrossOrigin = connect.NewError(connect.CodePermissionDenied, errors.New("the request came from another site"))
)

// statusOf is the one table from the codes of handlers to those of pages.
func statusOf(err error) int {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return http.StatusBadRequest
	case connect.CodeUnauthenticated:
		return http.StatusUnauthorized
	case connect.CodePermissionDenied:
		return http.StatusForbidden
	case connect.CodeNotFound:
		return http.StatusNotFound
	case connect.CodeFailedPrecondition, connect.CodeAborted, connect.CodeAlreadyExists:
		return http.StatusConflict
	case connect.CodeResourceExhausted:
		return http.StatusTooManyRequests
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// call makes a call of a handler and gives its error the form the console reads.
func call[Q, A any](k *console, ctx context.Context, handler func(context.Context, Q) (A, error), request Q) (A, error) {
	answer, err := handler(ctx, request)
	if err != nil {
		err = k.Errors(ctx, err)
	}
	return answer, err
}

// says reports whether an error carries a stable word, as its reason or as the code of a violation.
func says(err error, word string) bool {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return false
	}
	for _, d := range ce.Details() {
		m, err := d.Value()
		if err != nil {
			continue
		}
		if detail, ok := m.(*gwv1.ErrorDetail); ok {
			return detail.GetReason() == word || slices.ContainsFunc(detail.GetViolations(), func(v *gwv1.Violation) bool { return v.GetCode() == word })
		}
	}
	return false
}

// message is what an error says, without its code.
func message(err error) string {
	var ce *connect.Error
	if errors.As(err, &ce) {
		return ce.Message()
	}
	return err.Error()
}

// sentence makes a message one.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	first, n := utf8.DecodeRuneInString(s)
	s = string(unicode.ToUpper(first)) + s[n:]
	if !strings.ContainsAny(s[len(s)-1:], ".!?") {
		s += "."
	}
	return s
}

// fail answers with the page of an error. One that handlers did not make to be shown goes to the log, and the page only has
// its reference. v may be nil.
func (k *console) fail(w http.ResponseWriter, r *http.Request, v *visitor, err error) {
	p := page.Failure{Status: statusOf(err), Detail: sentence(message(err))}
	if shown := new(connect.Error); !errors.As(err, &shown) {
		p.Reference = rand.Text()[:8]
		p.Detail = ""
		k.Logger.Error("console page failed", "reference", p.Reference, "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if partial(r) {
		send(w, r, p.Status, page.FailureBody(p))
		return
	}
	if v == nil {
		send(w, r, p.Status, page.BareFailure(p))
		return
	}
	send(w, r, p.Status, page.FailurePage(k.shell(v, page.Headline(p.Status), ""), p))
}
