// Package cli owns the operator's commands: thin clients of the admin API that print tables to people and JSON or YAML
// to programs.
package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Commands is the part of gw's grammar that talks to a hub. Each command is a kong struct with
// Run(ctx context.Context, c *Context) error and Examples() string.
type Commands struct {
	Login  Login  `cmd:"" group:"session" help:"Log in to a hub and remember it."`
	Logout Logout `cmd:"" group:"session" help:"End the session and forget the hub."`
	WhoAmI WhoAmI `cmd:"" name:"whoami" group:"session" help:"Show who is logged in, and where."`

	Apply  Apply  `cmd:"" group:"configuration" help:"Save resources from files; edges run them after a push."`
	Get    Get    `cmd:"" group:"configuration" help:"Show saved resources."`
	Delete Delete `cmd:"" group:"configuration" help:"Delete saved resources; edges drop them after a push."`

	Diff     Diff     `cmd:"" group:"release" help:"Show what a push would change."`
	Push     Push     `cmd:"" group:"release" help:"Release what is saved to the edges."`
	Rollback Rollback `cmd:"" group:"release" help:"Release again what edges ran before."`
	Pushes   Pushes   `cmd:"" group:"release" help:"List pushes and rollbacks, or show what became of one at each edge."`
	Releases Releases `cmd:"" group:"release" help:"List releases, newest first."`
	Freeze   Freeze   `cmd:"" group:"release" help:"Keep pushes from being made, or list what is frozen."`
	Unfreeze Unfreeze `cmd:"" group:"release" help:"End a freeze."`

	Edges      Edges      `cmd:"" group:"fleet" help:"Show edges; label, retry, remove or revoke one."`
	Plugins    Plugins    `cmd:"" group:"fleet" help:"Show plugins, what hub plugins keep, and the payloads nobody wanted."`
	Namespaces Namespaces `cmd:"" group:"fleet" help:"List namespaces."`

	Apps      Apps       `cmd:"" group:"access" help:"Who calls the edges."`
	Tokens    Tokens     `cmd:"" group:"access" help:"Credentials of apps."`
	Secrets   Secrets    `cmd:"" group:"access" help:"Vendor keys and upstream credentials."`
	JoinToken JoinTokens `cmd:"" name:"join-token" group:"access" help:"What edges and hubs enrol with."`
	Users     Users      `cmd:"" group:"access" help:"Who may sign in, and what they may do."`

	Cluster Cluster `cmd:"" group:"cluster" help:"Show the hubs, remove one, hand over, or recover."`
	Backup  Backup  `cmd:"" group:"cluster" help:"Save the whole state to a file, or check such a file."`
	Restore Restore `cmd:"" group:"cluster" help:"Replace the whole state by a backup's."`
	Audit   Audit   `cmd:"" group:"cluster" help:"Show who changed what."`

	Version Version `cmd:"" group:"session" help:"Show the version of this binary."`
}

// Context is what commands have of the process they run in.
type Context struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Env returns an environment variable, "" if it isn't set; nil means os.Getenv. Flags get theirs from kong, which
	// reads the process's own environment.
	Env func(name string) string
	// Now is the clock that ages are shown by; nil means time.Now.
	Now func() time.Time
	// Version is what "gw version" prints; "" means what the build recorded.
	Version string
	// IsTerminal tells whether a person sits behind one of the streams above; nil means asking the operating system.
	IsTerminal func(stream any) bool
	// ReadPassword reads a line from the terminal without showing it; nil means from Stdin.
	ReadPassword func(ctx context.Context) ([]byte, error)
	// Patience is how long a call is repeated that a cluster without a leader could not take; 0 means 5 s.
	Patience time.Duration
	// Recover makes the hub whose data directory is dir the only voter of its cluster, offline. It finds out what that
	// does, calls confirm once with the text of it, and changes nothing unless confirm returned true. A false or an error
	// of confirm ends it; the command then says so itself, whatever Recover returns. nil: the command refuses.
	Recover func(ctx context.Context, dir string, confirm func(text string) (bool, error)) error
	// VerifyBackup reads a backup to its end, checks all of it, and returns what is in it. It refuses bytes after the end.
	// It neither needs the cluster's key nor a hub. nil: commands about backups refuse.
	VerifyBackup func(r io.Reader) (BackupInfo, error)
}

func (c *Context) env(name string) string {
	if c.Env == nil {
		return os.Getenv(name)
	}
	return c.Env(name)
}

func (c *Context) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// say tells people something that programs need not read.
func (c *Context) say(format string, args ...any) {
	fmt.Fprintf(c.Stderr, "%s\n", printable(fmt.Sprintf(format, args...)))
}

// Exit codes.
const (
	ExitFailed = 1 // it did not work
	ExitUsage  = 2 // it was asked for in the wrong way
	ExitWaited = 3 // it worked, and what was waited for did not come
)

// ExitError is an error that says how the process shall exit.
type ExitError struct {
	Code int
	Err  error
}

// Error returns the text of Err.
func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *ExitError) Unwrap() error { return e.Err }

func usageError(format string, args ...any) error {
	return &ExitError{ExitUsage, fmt.Errorf(format, args...)}
}

// ExitCode returns the code an error of a command or of parsing makes the process exit with; 0 for nil.
func ExitCode(err error) int {
	var exit *ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	default:
		return ExitFailed
	}
}

// newIdempotencyKey returns 16 random bytes in hex.
func newIdempotencyKey() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
