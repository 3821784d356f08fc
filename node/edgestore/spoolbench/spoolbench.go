// Package spoolbench owns the measurements of the edge's spool: what a plugin's payload costs until it is on disk, beside
// the same database written a row at a time.
package spoolbench

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	_ "modernc.org/sqlite" // the reference's, as the spool's

	"gw/node/edgestore"
	"gw/rpc/gwv1"
)

// Config says how much to measure. The zero value measures for about half a minute.
type Config struct {
	// Dir is where the databases are made; they are removed afterwards. Empty: the system's directory for temporary
	// files, which may be memory.
	Dir string
	// Senders are how many send at once, one line for each number. Nil: 1, 16 and 64.
	Senders []int
	// Rounds is how many turns each contender gets; medians are shown. 0: 5.
	Rounds int
	// Turn is how long a turn lasts. 0: one second.
	Turn time.Duration
	// Payload is a payload's size in bytes. 0: 512.
	Payload int
}

func (c Config) withDefaults() Config {
	c.Rounds, c.Turn, c.Payload = cmp.Or(c.Rounds, 5), cmp.Or(c.Turn, time.Second), cmp.Or(c.Payload, 512)
	if c.Senders == nil {
		c.Senders = []int{1, 16, 64}
	}
	return c
}

const pluginID = 7

// contest is both contenders' databases.
type contest struct {
	Config
	spool   *edgestore.Spool
	rows    *sql.DB
	payload []byte

	settled int           // payloads that left the spool,
	took    time.Duration // and in how long
}

// Run measures how many payloads a second the spool takes, each on disk when its sender hears of it, against one row per
// transaction with synchronous=FULL; and how fast they leave it again. It prints a table to w, and ends early with ctx's
// error.
func Run(ctx context.Context, c Config, w io.Writer) (err error) {
	c = c.withDefaults()
	dir, err := os.MkdirTemp(c.Dir, "spoolbench-*")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	k := contest{Config: c, payload: make([]byte, c.Payload)}
	if k.spool, err = edgestore.OpenSpool(edgestore.SpoolConfig{Dir: dir}); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, k.spool.Close()) }()
	if k.rows, err = openRows(dir); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, k.rows.Close()) }()

	fmt.Fprintf(w, "Payloads of %d bytes on the edge's disk, against one row per transaction (SQLite, WAL, synchronous=FULL) by as many senders; median of %d turns of %v each\n\n",
		c.Payload, c.Rounds, c.Turn)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "senders\tspool /s\trows /s\tratio\tspool p99\trows p99\tratio")
	for _, senders := range c.Senders {
		if err := k.line(ctx, t, senders); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\nOut of the spool, for a hub that answers at once: %.0f payloads/s\n\n", float64(k.settled)/k.took.Seconds())
	return err
}

// openRows is the reference.
func openRows(dir string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "rows.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("CREATE TABLE payloads (id INTEGER PRIMARY KEY, plugin INTEGER, record BLOB)"); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// line measures one number of senders, in alternating turns.
func (k *contest) line(ctx context.Context, w io.Writer, senders int) error {
	var rates, rowRates, ratios, slow, rowSlow, slowRatios []float64
	for range k.Rounds {
		ours, err := spend(ctx, senders, k.Turn, k.send)
		if err == nil {
			err = k.drain(ctx)
		}
		if err != nil {
			return err
		}
		theirs, err := spend(ctx, senders, k.Turn, k.insert)
		if err != nil {
			return err
		}
		rates, rowRates = append(rates, ours.rate), append(rowRates, theirs.rate)
		ratios = append(ratios, ours.rate/theirs.rate)
		slow, rowSlow = append(slow, ours.p99), append(rowSlow, theirs.p99)
		slowRatios = append(slowRatios, theirs.p99/ours.p99)
	}
	_, err := fmt.Fprintf(w, "%d\t%.0f\t%.0f\t%.2f\t%.1f ms\t%.1f ms\t%.2f\n", senders,
		median(rates), median(rowRates), median(ratios), 1e3*median(slow), 1e3*median(rowSlow), median(slowRatios))
	return err
}

func (k *contest) send(ctx context.Context) error {
	_, err := k.spool.Send(ctx, pluginID, k.payload, "", nil)
	return err
}

func (k *contest) insert(ctx context.Context) error {
	_, err := k.rows.ExecContext(ctx, "INSERT INTO payloads (plugin, record) VALUES (?, ?)", pluginID, k.payload)
	return err
}

// drain settles all that is pending.
func (k *contest) drain(ctx context.Context) error {
	began := time.Now()
	defer func() { k.took += time.Since(began) }()
	for {
		payloads, settle, err := k.spool.Batch(ctx, nil)
		if err != nil || len(payloads) == 0 {
			return err
		}
		outcomes := make([]*gwv1.PayloadOutcome, len(payloads))
		for i := range outcomes {
			outcomes[i] = &gwv1.PayloadOutcome{Result: gwv1.PayloadResult_PAYLOAD_RESULT_HANDLED}
		}
		if err := settle(outcomes); err != nil {
			return err
		}
		k.settled += len(payloads)
	}
}

// turn is what one contender did in one turn.
type turn struct {
	rate float64 // writes a second
	p99  float64 // seconds
}

// spend has a number of senders write for a while.
func spend(ctx context.Context, senders int, d time.Duration, write func(context.Context) error) (turn, error) {
	took, errs := make([][]time.Duration, senders), make([]error, senders)
	began := time.Now()
	var group sync.WaitGroup
	for i := range senders {
		group.Go(func() {
			for over := false; !over && errs[i] == nil; over = time.Since(began) >= d { // each writes once at least
				at := time.Now()
				errs[i] = write(ctx)
				took[i] = append(took[i], time.Since(at))
			}
		})
	}
	group.Wait()
	elapsed := time.Since(began)
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	return turn{float64(len(all)) / elapsed.Seconds(), all[len(all)*99/100].Seconds()}, errors.Join(errs...)
}

func median(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }
