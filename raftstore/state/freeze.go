package state

import (
	"fmt"
	"iter"

	"github.com/hashicorp/go-memdb"

	"gw/rpc/gwv1"
)

// Freezes are what keeps pushes from being made, that of every namespace first, then sorted by namespace.
func (s *State) Freezes() iter.Seq[*gwv1.FreezeRecord] {
	return list[*gwv1.FreezeRecord](s.db.Txn(false), tableFreezes, byID, nil)
}

// Frozen returns what keeps pushes of a namespace from being made: its own freeze, or else that of every namespace.
func (s *State) Frozen(namespace string) (*gwv1.FreezeRecord, bool) {
	return frozen(s.db.Txn(false), namespace)
}

func frozen(tx *memdb.Txn, namespace string) (*gwv1.FreezeRecord, bool) {
	if f, ok := one[*gwv1.FreezeRecord](tx, tableFreezes, byID, terminated(namespace)); ok {
		return f, true
	}
	return one[*gwv1.FreezeRecord](tx, tableFreezes, byID, terminated(""))
}

// FrozenMessage says to whom a push of a namespace is refused who froze it, when and why.
func FrozenMessage(namespace string, f *gwv1.FreezeRecord) string {
	what := "pushes of " + namespace
	if f.Namespace == "" {
		what = "all pushes"
	}
	return fmt.Sprintf("%s were frozen by %s at %s: %s", what, f.By, stampOf(f.At), f.Reason)
}

func (x *change) freezePushes(m *gwv1.FreezePushes) *gwv1.Refusal {
	scope := freezeScope(m.GetNamespaces())
	for _, n := range scope {
		f := &gwv1.FreezeRecord{Namespace: n, Reason: m.Reason, By: x.command.Actor, At: x.at}
		if p := validFreeze(f); p != "" {
			return invalid(p)
		}
		x.put(tableFreezes, f)
	}
	x.auditFreeze("freeze", scope)
	return nil
}

func (x *change) unfreezePushes(m *gwv1.UnfreezePushes) *gwv1.Refusal {
	scope := freezeScope(m.GetNamespaces())
	for _, n := range scope {
		f, ok := one[*gwv1.FreezeRecord](x.tx, tableFreezes, byID, terminated(n))
		switch {
		case !ok && n == "":
			return notFound("freeze", "of every namespace")
		case !ok:
			return notFound("freeze", n)
		}
		x.drop(tableFreezes, f)
	}
	x.auditFreeze("unfreeze", scope)
	return nil
}

func (x *change) auditFreeze(action string, scope []string) {
	if n := len(scope) - 1; n > 0 {
		x.audit(action, fmt.Sprintf("pushes of %s and %d more", scope[0], n), "")
		return
	}
	x.audit(action, "pushes", scope[0])
}

// freezeScope is the namespaces a command is about; "" is every one.
func freezeScope(namespaces []string) []string {
	if len(namespaces) == 0 {
		return []string{""}
	}
	return namespaces
}

func validFreeze(r *gwv1.FreezeRecord) string {
	p := first(textProblem("reason", r.Reason, maxText), actorProblem(r.By))
	if p == "" && r.Reason == "" {
		return "a freeze without a reason"
	}
	if p == "" && r.Namespace != "" {
		return edgeNamespaceProblem(r.Namespace)
	}
	return p
}
