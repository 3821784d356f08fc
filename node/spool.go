package node

import (
	"fmt"
	"time"

	"gw/node/edgestore"
)

// openSpool opens spool.db, and tells what is lost if it was damaged.
func (e *edge) openSpool() (err error) {
	e.spool, err = edgestore.OpenSpool(edgestore.SpoolConfig{Dir: e.config.DataDir, Now: e.config.Now, Logger: e.log.With("room", "edgestore")})
	if err != nil {
		return err
	}
	e.metrics.MustRegister(e.spool.Collector())
	return nil
}

const (
	// lossShown is how long health tells of payloads that went with a damaged file.
	lossShown = 24 * time.Hour
	// longWait is how long payloads may wait for a hub before health tells of it.
	longWait = 15 * time.Minute
)

// spoolAilments are what is wrong with payloads that wait for a hub.
func (e *edge) spoolAilments() (reasons []string) {
	if l := e.spool.Loss(); l.SetAside != "" && e.config.Now().Sub(l.At) < lossShown {
		lost := fmt.Sprintf("%d payloads are lost with it", l.Payloads)
		if l.Unknown {
			lost = "an unknown number of payloads is lost with it"
		}
		reasons = append(reasons, fmt.Sprintf("spool.db was damaged at %s: %s; it is kept as %s", l.At.UTC().Format(time.RFC3339), lost, l.SetAside))
	}
	for _, q := range e.spool.Queues() {
		switch {
		case q.Pending >= edgestore.MaxPending*9/10 || q.PendingBytes >= edgestore.MaxPendingBytes*9/10:
			reasons = append(reasons, fmt.Sprintf("%d payloads of plugin %d wait for a hub, and there is hardly room for more%s", q.Pending, q.PluginId, because(q.Halted)))
		case q.Oldest != nil && e.config.Now().Sub(q.Oldest.AsTime()) > longWait:
			reasons = append(reasons, fmt.Sprintf("payloads of plugin %d have waited for a hub since %s, and are dropped after a day%s",
				q.PluginId, q.Oldest.AsTime().UTC().Format(time.RFC3339), because(q.Halted)))
		}
	}
	return reasons
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}
