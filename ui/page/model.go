package page

import "time"

// Shell is what surrounds a page.
type Shell struct {
	Title   string
	Section string // the path of the item of the navigation the page belongs to
	Cluster string
	Version string
	User    string
	Role    string
	// CanPush is false for those who may only look: buttons that change something are shown disabled, with the reason.
	CanPush, CanRemove bool
	// Rendered is the hub's time, by which times on the page are told.
	Rendered time.Time
	// Live is where the page's stream is; empty if it has none.
	Live string
}

// WrongPassword is all a refused login says, so that it does not tell which users exist.
const WrongPassword = "Wrong user or password."

// Login is the page to sign in with.
type Login struct {
	Cluster, Version string
	Next             string // a path on this origin
	User             string // as typed before
	Problem          string
}

// Failure is the page of an error.
type Failure struct {
	Status    int
	Detail    string
	Reference string
}

// Headline says what happened, for people.
func Headline(status int) string {
	switch status {
	case 400:
		return "That request makes no sense"
	case 401:
		return "Not signed in"
	case 403:
		return "You may not do that"
	case 404:
		return "Not found"
	case 409:
		return "Something else changed first"
	case 429:
		return "Too much at once"
	case 503:
		return "The cluster cannot answer now"
	}
	return "Something went wrong"
}

// advice says what still works and what to do next.
func advice(status int) string {
	switch status {
	case 403:
		return "An admin can give you a role that may."
	case 404:
		return "It may have been removed, or the address is wrong."
	case 409:
		return "Nothing was changed. Look at what is there now, and decide again."
	case 503:
		return "There may be an election going on; try again in a few seconds. Edges go on serving what they have."
	}
	return "Nothing else is affected: edges go on serving what they have."
}

// Query is a view of the fleet as its address holds it.
type Query struct {
	Text, Namespace  string
	Connection, Sync string // "connected", "stale", …; empty: any
	Sort             string // "id", "-id", …
	Page             int    // from 1
}

// Edges is the fleet's page.
type Edges struct {
	Shell
	Query      Query
	Namespaces []string
	Summary    Summary
	Rows       []Row
	Total      int // that match, on all pages
	PerPage    int
	// Ever is false while no edge was ever registered in what may be seen.
	Ever    bool
	HubURL  string
	Removed string // the ID of an edge that was just removed
	// Problem is why the rows could not be had; the rest is then empty.
	Problem string
	Now     time.Time
}

// Summary is the fleet in numbers, over the namespace looked at.
type Summary struct {
	Known                                 bool // else the fleet could not be asked, and nothing is shown
	Edges, Connected, Stale, Disconnected uint32
	InSync, Pending, SyncStale, Unknown   uint32
	NewestPush                            uint64
	NewestPushAt                          time.Time
	Unpushed                              uint32 // namespaces
	Traffic                               string // "12.3 requests/s, 0.4 % errors"; empty: no edge says
	Namespace                             string
}

// Row is one edge in the table.
type Row struct {
	ID, Namespace, Address string
	Connection, Sync       State
	ConnectionWhy, SyncWhy string
	Away                   bool // its sync is what was last known
	Health                 State
	HealthWhy              string
	Ailing                 bool // health is worth a word
	Conflict               bool
	Loaded                 string // checksum
	Version, Build         string
	Heartbeat              time.Time
}

// Pair is a key and its value.
type Pair struct{ Key, Value string }

// Checksum is one of the three of an edge.
type Checksum struct {
	Name, Value, Release, What string
	Differs                    bool
}

// Edge is the page of one.
type Edge struct {
	Shell
	Row
	Checksums                           []Checksum
	Session, OtherSession               string
	Labels, Metadata                    []Pair
	FirstSeen, Started, CertificateEnds time.Time
	AccessVersion                       uint64
	AccessLag                           string // ", 3 changes behind", or nothing
	Ephemeral                           bool
	OtherAddress                        string
	RevokedAt                           time.Time
	RevokedBy                           string
	Activity                            Activity
	Events                              []Event
	ListeningSince                      time.Time
	Failure                             *ApplyFailure
	Gone                                bool // removed while the page was open
	Now                                 time.Time
}

// ApplyFailure is why an edge runs something else than it should.
type ApplyFailure struct {
	Release uint64
	Culprit string // "API/orders spec.paths[0]"
	Code    string
	Message string
	At      time.Time
	Final   bool // it will not be tried again
}

// Removal asks whether an edge is to be removed.
type Removal struct {
	Shell
	ID, Namespace string
	Connected     bool
	Problem       string
}

// Push asks what is to be released.
type Push struct {
	Shell
	Rollback   bool   // what was released before is
	To         uint64 // with Rollback: the push to go back to; 0: before the newest
	Freezes    []Freeze
	All        bool   // else one namespace
	Namespace  string // the one chosen
	Limited    bool   // all cannot be chosen
	Namespaces []PushNamespace
	Base       string
	Note       string
	Problems   []string // what would keep it from being accepted
	Refused    string   // why the last try was
	Confirm    bool     // the removal of much is to be confirmed
	Preview    []Preview
	Edges      uint32
	Connected  uint32
}

// Title names what is asked for.
func (p Push) Title() string {
	switch {
	case p.Rollback && p.To > 0:
		return "Roll back to push " + Number(p.To)
	case p.Rollback:
		return "Roll back"
	}
	return "Push configuration"
}

// Freeze keeps pushes of a namespace from being made; "" is every one.
type Freeze struct {
	Namespace, Reason, By string
	At                    time.Time
}

// What says what is frozen.
func (f Freeze) What() string {
	if f.Namespace == "" {
		return "All pushes"
	}
	return "Pushes of " + f.Namespace
}

// FreezeForm asks what to freeze, and why.
type FreezeForm struct {
	Shell
	Namespace  string
	Namespaces []string
	Problem    string
}

// PushNamespace is a namespace that can be chosen.
type PushNamespace struct {
	Name  string
	Edges uint32
}

// Preview is what a push would change in a namespace.
type Preview struct {
	Namespace        string
	Release          uint64 // 0: none yet
	From, To         string // checksums
	Changes          []ResourceChange
	More             int // changes not listed
	Size, Cap        uint64
	Edges, Connected uint32
	Source           uint64 // the release a rollback brings back; 0: what is saved
	TooOldEdges      uint32 // edges that would keep what they run, being from before what would be released
	TooOld           []TooOld
}

// TooOld is something that some edges of a namespace don't know.
type TooOld struct {
	Reason string
	Edges  []string
	More   int // edges not named
}

// after is what follows an edge's name in the list of them.
func (x TooOld) after(i int) string {
	switch {
	case i < len(x.Edges)-1:
		return ", "
	case x.More > 0:
		return " and " + Number(x.More) + " more"
	}
	return ""
}

// ResourceChange is one resource of a preview or a comparison.
type ResourceChange struct {
	Kind, Name string
	Change     State
	Fields     []FieldChange
}

// FieldChange is one field of it; "" is none.
type FieldChange struct{ Path, Before, After string }

// Diff compares two releases of a namespace. To 0 is what is saved.
type Diff struct {
	Shell
	Namespace string
	From, To  uint64
	First     bool     // there is nothing before To to compare it with
	Releases  []uint64 // that can be chosen, newest first
	Changes   []ResourceChange
	More      int
}

// Changes counts the changes of all namespaces.
func (p Push) Changes() int {
	n := 0
	for _, v := range p.Preview {
		n += len(v.Changes) + v.More
	}
	return n
}

// Progress is the page of a push.
type Progress struct {
	Shell
	Number                                  uint64
	Rollback                                bool
	RollbackTo                              uint64
	BreakGlass                              bool
	Namespaces                              []PushedNamespace
	Note, By                                string
	At                                      time.Time
	Edges, Loaded, Failed, Waiting, Offline uint32
	Outcomes                                []Outcome // those that want attention first
	More                                    int       // edges not listed
	Superseded                              bool
	Now                                     time.Time
}

// Title names the push.
func (p Progress) Title() string {
	if p.Rollback {
		return "Rollback " + Number(p.Number)
	}
	return "Push " + Number(p.Number)
}

// PushedNamespace is one namespace that got a release.
type PushedNamespace struct {
	Name, Checksum            string
	Created, Updated, Deleted uint32
}

// Outcome is what became of a push at one edge.
type Outcome struct {
	Edge, Namespace string
	State           State
	Why             string
}

// PushRow is one row of the history.
type PushRow struct {
	Number                uint64
	Kind                  string // "Push", "Rollback to 41"
	BreakGlass            bool
	Namespaces            []string
	Edges, Loaded, Failed uint32
	By, Note              string
	At                    time.Time
}

// PushKind names what made a release.
func PushKind(rollback bool, to uint64) string {
	switch {
	case rollback && to > 0:
		return "Rollback to " + Number(to)
	case rollback:
		return "Rollback"
	}
	return "Push"
}

// Done reports whether nothing more will happen by itself soon.
func (p Progress) Done() bool { return p.Waiting == 0 }

// NothingPushed is the page after a push that changed nothing.
type NothingPushed struct {
	Shell
	Namespaces []string
}

// Releases is the page of the newest releases.
type Releases struct {
	Shell
	Namespace  string
	Namespaces []string
	Freezes    []Freeze
	Pushes     []PushRow
	Rows       []Release
	Now        time.Time
}

// Release is one row of them.
type Release struct {
	Number              uint64
	Namespace, Checksum string
	Resources           uint32
	Size                uint64
	By, Note            string
	At                  time.Time
	Target              bool
}
