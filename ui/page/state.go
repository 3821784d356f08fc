// Package page owns how the console looks: components over view models shaped like the page.
package page

import "gw/rpc/gwv1"

// State is one word of one axis with what is shown beside it. The icon and the colour follow from Class in the style
// sheet; the word is always there too, because neither alone tells everybody.
type State struct {
	Class string // "st-connected"
	Word  string
	Axis  string // "Connection"; said to those who cannot see the column
}

// Label is the state for those who cannot see where it stands: two axes have a "Stale".
func (s State) Label() string { return s.Axis + ": " + s.Word }

// Connection returns the state of that axis.
func Connection(c gwv1.Connection) State {
	s := State{Axis: "Connection", Class: "st-unknown", Word: "Unknown"}
	switch c {
	case gwv1.Connection_CONNECTION_CONNECTED:
		s.Class, s.Word = "st-connected", "Connected"
	case gwv1.Connection_CONNECTION_STALE:
		s.Class, s.Word = "st-stale", "Stale"
	case gwv1.Connection_CONNECTION_DISCONNECTED:
		s.Class, s.Word = "st-disconnected", "Disconnected"
	}
	return s
}

// Sync returns the state of that axis.
func Sync(y gwv1.Sync) State {
	s := State{Axis: "Config sync", Class: "st-unknown", Word: "Unknown"}
	switch y {
	case gwv1.Sync_SYNC_IN_SYNC:
		s.Class, s.Word = "st-insync", "In Sync"
	case gwv1.Sync_SYNC_PENDING:
		s.Class, s.Word = "st-pending", "Pending"
	case gwv1.Sync_SYNC_STALE:
		s.Class, s.Word = "st-outdated", "Stale"
	}
	return s
}

// Health returns the state of that axis.
func Health(h gwv1.Health) State {
	s := State{Axis: "Health", Class: "st-unknown", Word: "Unknown"}
	switch h {
	case gwv1.Health_HEALTH_OK:
		s.Class, s.Word = "st-ok", "OK"
	case gwv1.Health_HEALTH_DEGRADED:
		s.Class, s.Word = "st-degraded", "Degraded"
	case gwv1.Health_HEALTH_FAILING:
		s.Class, s.Word = "st-failed", "Failing"
	}
	return s
}

// Change returns how a change of a resource is shown.
func Change(c gwv1.Change) State {
	s := State{Axis: "Change", Class: "st-unknown", Word: "Unchanged"}
	switch c {
	case gwv1.Change_CHANGE_CREATED:
		s.Class, s.Word = "st-created", "Created"
	case gwv1.Change_CHANGE_UPDATED:
		s.Class, s.Word = "st-updated", "Updated"
	case gwv1.Change_CHANGE_DELETED:
		s.Class, s.Word = "st-deleted", "Deleted"
	}
	return s
}

// PushOutcome returns how what became of a push at an edge is shown.
func PushOutcome(o gwv1.EdgeOutcome) State {
	switch o {
	case gwv1.EdgeOutcome_EDGE_OUTCOME_LOADED:
		return loaded
	case gwv1.EdgeOutcome_EDGE_OUTCOME_FAILED:
		return failed
	case gwv1.EdgeOutcome_EDGE_OUTCOME_OFFLINE:
		return offline
	case gwv1.EdgeOutcome_EDGE_OUTCOME_SUPERSEDED:
		return State{Axis: "Push", Class: "st-ok", Word: "Later one"}
	case gwv1.EdgeOutcome_EDGE_OUTCOME_REMOVED:
		return State{Axis: "Push", Class: "st-away", Word: "Removed"}
	}
	return waiting
}

var (
	failed  = State{Axis: "Push", Class: "st-failed", Word: "Failed"}
	loaded  = State{Axis: "Push", Class: "st-ok", Word: "Loaded"}
	waiting = State{Axis: "Push", Class: "st-busy", Word: "Waiting"}
	offline = State{Axis: "Push", Class: "st-away", Word: "Offline"}
	target  = State{Axis: "Release", Class: "st-ok", Word: "Target"}
)
