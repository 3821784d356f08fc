package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"gw/raftstore"
)

// attempt is one try to serve a call here. Only the goroutine that serves it uses it.
type attempt struct {
	http.ResponseWriter
	store *raftstore.Store
	// silent: an answer that says "not here" is dropped, since another attempt follows. Otherwise it is marked.
	silent bool
	before http.Header // the answer's header as it was before
	wrote  bool        // the answer has begun
	again  bool        // nothing was done, because this hub does not lead
	unsure bool        // what was proposed may be done or not
	// repeatable, if set, tells whether a call that may have been done may be made once more.
	repeatable func() bool
}

type attemptKey struct{}

func newAttempt(w http.ResponseWriter, store *raftstore.Store, silent bool) *attempt {
	return &attempt{ResponseWriter: w, store: store, silent: silent, before: maps.Clone(w.Header())}
}

// serve lets a handler try. If nothing was answered, another attempt is to follow.
func (a *attempt) serve(next http.Handler, r *http.Request) outcome {
	next.ServeHTTP(a, r.WithContext(context.WithValue(r.Context(), attemptKey{}, a)))
	if !a.dropped() {
		a.mark() // of an answer without a body the header is yet to be written
		return answered
	}
	clear(a.Header())
	maps.Copy(a.Header(), a.before)
	if a.unsure {
		return unknown
	}
	return untouched
}

// noteError is told what a call ends with, before it is answered.
func noteError(ctx context.Context, err error) {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	if a == nil || a.wrote || ctx.Err() != nil {
		return
	}
	a.unsure = errors.Is(err, raftstore.ErrUnknownOutcome)
	a.again = errors.Is(err, raftstore.ErrNotProposed) && !anyOf(err, raftstore.ErrUnknownOutcome, raftstore.ErrTooLarge,
		raftstore.ErrDiskLow, raftstore.ErrClosed, raftstore.ErrHalted, raftstore.ErrMembership)
}

func anyOf(err error, kinds ...error) bool {
	return slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) })
}

// noteStranger is told that a bearer token is not known here; the leader may know it, which this hub may be about to be.
func noteStranger(ctx context.Context) {
	if a, _ := ctx.Value(attemptKey{}).(*attempt); a != nil && !a.store.Leading() {
		a.again = true
	}
}

func (a *attempt) dropped() bool {
	return a.silent && (a.again || a.unsure && a.repeatable != nil && a.repeatable())
}

// WriteHeader implements http.ResponseWriter.
func (a *attempt) WriteHeader(status int) {
	if a.dropped() {
		return
	}
	a.mark()
	a.ResponseWriter.WriteHeader(status)
}

// mark begins the answer: what hubs want to know of it goes into its header.
func (a *attempt) mark() {
	if a.wrote {
		return
	}
	a.wrote = true
	a.Header().Set(headerIndex, strconv.FormatUint(a.store.State().Index(), 10))
	if a.again {
		a.Header().Set(headerOutcome, "again")
	}
	if a.unsure && !a.silent {
		a.Header().Set(headerUnsure, "1")
	}
}

// Write implements io.Writer.
func (a *attempt) Write(p []byte) (int, error) {
	if a.dropped() {
		return len(p), nil
	}
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	return a.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (a *attempt) Flush() {
	if a.dropped() {
		return
	}
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	http.NewResponseController(a.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (a *attempt) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// maxReplay is how large a request may be that can be tried more than once.
const maxReplay = 1 << 20

// replay is a request's body that can be read from its beginning again while it is small. One reader at a time.
type replay struct {
	rest io.Reader
	kept []byte // what was read of rest
	lost bool   // something was read that is not kept
}

// Read reads on, and keeps it.
func (b *replay) Read(p []byte) (int, error) {
	n, err := b.rest.Read(p)
	if b.lost = b.lost || len(b.kept)+n > maxReplay; b.lost {
		b.kept = nil
	} else {
		b.kept = append(b.kept, p[:n]...)
	}
	return n, err
}

// begin returns the body from its beginning, for a handler; nil if that is lost.
func (b *replay) begin() io.ReadCloser {
	if b.lost {
		return nil
	}
	return io.NopCloser(io.MultiReader(bytes.NewReader(b.kept), b))
}

// fetch reads until all of the body is kept, and reports whether it is: a large one isn't.
func (b *replay) fetch() (whole bool, err error) {
	buffer := make([]byte, 32<<10)
	for len(b.kept) <= maxReplay {
		n, err := b.rest.Read(buffer)
		b.kept = append(b.kept, buffer[:n]...)
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// once returns the body from its beginning for the last time.
func (b *replay) once() io.ReadCloser {
	body := io.MultiReader(bytes.NewReader(b.kept), b.rest)
	b.lost, b.kept = true, nil
	return io.NopCloser(body)
}
