package rpc

import (
	"context"
	"fmt"
	"slices"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	"gw/rpc/resource"
)

// Role is what a principal may do; a greater one may do all that a lesser one may.
type Role int

const (
	// RoleViewer reads.
	RoleViewer Role = iota + 1
	// RoleOperator also saves, pushes, and handles apps and tokens.
	RoleOperator
	// RoleAdmin does the rest: secrets, join tokens, removing edges.
	RoleAdmin
)

// String returns "viewer", "operator" or "admin".
func (r Role) String() string {
	switch r {
	case RoleViewer:
		return "viewer"
	case RoleOperator:
		return "operator"
	case RoleAdmin:
		return "admin"
	}
	return "nobody"
}

// ParseRole is the reverse of String.
func ParseRole(s string) (Role, error) {
	for r := RoleViewer; r <= RoleAdmin; r++ {
		if r.String() == s {
			return r, nil
		}
	}
	return 0, fmt.Errorf("role %q: want viewer, operator or admin", s)
}

// Principal is who calls.
type Principal struct {
	// User is a name for the audit.
	User string
	Role Role
	// Namespaces are those the principal may act in; none: every one. Whoever may read one may also read global, which
	// is part of it; saving and pushing global needs it to be named.
	Namespaces []string
	// Address the call came from; may be empty.
	Address string

	session []byte // hash of the bearer token the call was made with, if it was
}

// may reports whether the principal may do what needs role in a namespace; "" is all of them.
func (p Principal) may(role Role, namespace string) bool {
	switch {
	case p.Role < role:
		return false
	case len(p.Namespaces) == 0, role == RoleViewer && namespace == resource.Global:
		return true
	}
	return slices.Contains(p.Namespaces, namespace)
}

// sees reports whether what is in a namespace may be shown to the principal.
func (p Principal) sees(namespace string) bool { return p.may(RoleViewer, namespace) }

type (
	principalKey   struct{}
	validatedKey   struct{}
	idempotencyKey struct{}
)

// WithPrincipal returns a context whose calls are made by p. It must be made only where p was established.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalOf returns who calls.
func PrincipalOf(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}

// WithIdempotencyKey returns a context whose changes are made at most once per key: a repeated call gets the result of
// the first. From the wire it is the header Idempotency-Key.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idempotencyKey{}, key)
}

func keyOf(ctx context.Context) string {
	key, _ := ctx.Value(idempotencyKey{}).(string)
	return key
}

// allow returns the caller if it has the role; in each of the namespaces, or if none is given, anywhere.
func allow(ctx context.Context, role Role, namespaces ...string) (Principal, error) {
	p, ok := PrincipalOf(ctx)
	switch {
	case !ok:
		return p, &Error{Reason: ReasonUnauthenticated, Message: "sign in first: the call carries no valid bearer token"}
	case p.Role < role:
		return p, &Error{Reason: ReasonForbidden, Message: fmt.Sprintf("%s has the role %s; this needs %s", p.User, p.Role, role)}
	}
	for _, ns := range namespaces {
		if !p.may(role, ns) {
			what := fmt.Sprintf("namespace %q", ns)
			if ns == "" {
				what = "every namespace"
			}
			return p, &Error{Reason: ReasonForbidden, Message: fmt.Sprintf("%s may not do this in %s", p.User, what)}
		}
	}
	return p, nil
}

// admit is allow, and then checks the request by its schema unless the wire has done so.
func admit(ctx context.Context, request proto.Message, role Role, namespaces ...string) (Principal, error) {
	p, err := allow(ctx, role, namespaces...)
	if err != nil {
		return p, err
	}
	return p, checkSchema(ctx, request)
}

func checkSchema(ctx context.Context, request proto.Message) error {
	if ctx.Value(validatedKey{}) != nil {
		return nil
	}
	return protovalidate.Validate(request)
}

// orDefault returns the namespace that is meant by leaving it out.
func orDefault(namespace string) string {
	if namespace == "" {
		return resource.Default
	}
	return namespace
}
