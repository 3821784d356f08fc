package page

import "time"

// Plugins is the page of plugins and of the payloads that nobody took.
type Plugins struct {
	Shell
	Rows       []PluginRow
	Letters    []LetterRow
	Total      uint32 // dead letters, of which Letters are the newest
	CanOperate bool
	Now        time.Time
}

// PluginRow is a plugin at one place, or nowhere.
type PluginRow struct {
	ID          string
	Type, Name  string
	Place, URL  string // where; URL is the page of it, empty if it has none
	State       State
	Restarts    string
	P50, P99    string
	Queue, Lost string
	Oldest      time.Time
	KV          string
	Reason      string
}

// LetterRow is one dead letter.
type LetterRow struct {
	ID, Plugin, Edge, EdgeURL, Namespace string
	State, Correlation, Size, Reason     string
	Sent                                 time.Time
	Held, Gone                           bool // it can be redelivered; its bytes are gone
}
