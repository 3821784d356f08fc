package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Explain returns what went wrong and what to do next, in sentences for people, one or more lines without a line feed
// at the end; "" for nil.
func Explain(err error) string {
	var (
		asked *usage
		call  *hubError
	)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &asked):
		return fmt.Sprintf("%v\nTry: %s", asked.err, asked.hint)
	case errors.As(err, &call) && !errors.Is(err, context.Canceled):
		return explainCall(call)
	case errors.Is(err, context.Canceled):
		return "interrupted"
	default:
		return err.Error()
	}
}

// explainCall explains an error of a call to a hub.
func explainCall(call *hubError) string {
	if errors.Is(call.err, errNotLoggedIn) {
		return fmt.Sprintf("not logged in to %s\nLog in with: gw login %s  (or set GW_ADDR and GW_TOKEN)", call.hub, call.hub)
	}
	if text := explainNetwork(call); text != "" {
		return text
	}
	var e *connect.Error
	if !errors.As(call.err, &e) {
		return call.Error()
	}
	detail := detailOf(e)
	if detail == nil {
		detail = new(gwv1.ErrorDetail)
	}
	text := e.Message()
	if text == "" {
		text = e.Code().String()
	}
	for _, v := range detail.GetViolations() {
		if line := violation(v).Error(); !strings.Contains(text, line) {
			text += "\n" + line
		}
	}
	if next := nextStep(call.hub, e.Code(), detail.GetReason()); next != "" {
		text += "\n" + next
	}
	return text
}

// explainNetwork explains why a hub could not be reached or trusted, "" if that isn't the matter.
func explainNetwork(call *hubError) string {
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch err := call.err; {
	case errors.Is(err, errWrongPin):
		return fmt.Sprintf("%v: either it was replaced or someone is in between %s and you\nIf it was replaced, log in again: gw login %s", errWrongPin, call.hub, call.hub)
	case errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid):
		return fmt.Sprintf("the certificate of %s can't be verified: %v\nLog in to pin it: gw login %s  (or give its fingerprint: --ca-pin)", call.hub, err, call.hub)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("nothing listens at %s\nIs the hub running there? Start one with: gw hub  (or name another with --hub)", call.hub)
	case errors.As(err, &dns):
		return fmt.Sprintf("there is no host %q\nCheck the address, or name another with --hub", dns.Name)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Sprintf("%s speaks plain HTTP\nUse: %s", call.hub, strings.Replace(call.hub, "https://", "http://", 1))
	}
	return ""
}

// nextStep says what to do about an error of a hub, "" if its message says all.
func nextStep(hub string, code connect.Code, reason string) string {
	switch reason {
	case "changed":
		return "Somebody changed it in between. Look again with: gw diff"
	case "confirm_removal":
		return "If that is meant, repeat with --confirm-removal."
	case "frozen":
		return "Wait, end it with gw unfreeze, or, as an admin, repeat with --break-glass and a --note that says why."
	case "missing_secret":
		return "Save it first: gw secrets put NAME"
	case "not_proposed":
		return "Nothing was changed. Try again in a moment."
	case "unknown_outcome":
		return "It may or may not have been done. Look before you repeat it."
	case "not_leader":
		return "Nothing was changed: that hub doesn't lead and could not pass it on. Try again in a moment, or name another with --hub."
	case "removed":
		return "That hub is not in the cluster any more. Name another with --hub."
	case "secret_already_delivered":
		return "It was done, but the answer with the credential was lost, and it is shown only once. Take back what was made, and make another."
	}
	switch code {
	case connect.CodeUnauthenticated:
		return "Log in again: gw login " + hub
	case connect.CodePermissionDenied:
		return "Ask an admin for the role it takes; gw whoami shows yours."
	case connect.CodeUnavailable:
		return "The hub can't answer now. Try again in a moment."
	case connect.CodeUnimplemented:
		return fmt.Sprintf("Is %s a gw hub of this version? Compare: gw version", hub)
	}
	return ""
}

// detailOf returns the detail for programs of an error, nil if there is none.
func detailOf(err error) *gwv1.ErrorDetail {
	var e *connect.Error
	if !errors.As(err, &e) {
		return nil
	}
	for _, d := range e.Details() {
		if v, err := d.Value(); err == nil {
			if detail, ok := v.(*gwv1.ErrorDetail); ok {
				return detail
			}
		}
	}
	return nil
}

// violation returns a violation as an error without a place.
func violation(v *gwv1.Violation) *resource.Error {
	return &resource.Error{Kind: v.GetKind(), Namespace: v.GetNamespace(), Name: v.GetName(), Field: v.GetField(), Code: v.GetCode(), Message: v.GetMessage(), Expected: v.GetExpected()}
}
