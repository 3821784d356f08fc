package page

import "time"

// Activity is what an edge does, as its heartbeats say.
type Activity struct {
	Known bool // else its heartbeats don't say, or none came
	// Measures are shown big, Details beside them.
	Measures []Measure
	Details  []Pair
	// Lost is how many payloads and usage records are known to be lost.
	Lost uint64
}

// Measure is a number with its unit and what it is of.
type Measure struct{ Name, Value, Unit, Note string }

// Event is one line of an edge's timeline.
type Event struct {
	At    time.Time
	Class string // of the state whose icon and colour it has
	Kind  string // for those who don't see the icon
	Text  string
	By    string
}

// Revocation asks whether an edge's certificates are to be ended.
type Revocation struct {
	Shell
	ID, Namespace string
	Problem       string
}

// at is " at ADDRESS", or nothing.
func at(address string) string {
	if address == "" {
		return ""
	}
	return " at " + address
}
