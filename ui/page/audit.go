package page

import (
	"net/url"
	"strconv"
	"time"
)

// Audit is the page of who changed what.
type Audit struct {
	Shell
	Object, Actor, Action, Namespace string // what the view is narrowed to
	Namespaces                       []string
	Rows                             []AuditRow
	Later                            bool   // it is not the newest page
	Next                             uint64 // where the next page begins; 0: there is none
	Oldest                           time.Time
	Now                              time.Time
}

// AuditRow is one entry.
type AuditRow struct {
	At                                        time.Time
	Actor, Address, Action, Object, Namespace string
	URL                                       string // of the object; empty: it has no page
}

// Narrowed reports whether something keeps entries out of the view.
func (p Audit) Narrowed() bool { return p.Object+p.Actor+p.Action+p.Namespace != "" }

// from is the address of the view from an index on; 0 is the newest.
func (p Audit) from(before uint64) string {
	v := url.Values{}
	for name, value := range map[string]string{"object": p.Object, "actor": p.Actor, "action": p.Action, "ns": p.Namespace} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if before > 0 {
		v.Set("before", strconv.FormatUint(before, 10))
	}
	if len(v) == 0 {
		return "/audit"
	}
	return "/audit?" + v.Encode()
}
