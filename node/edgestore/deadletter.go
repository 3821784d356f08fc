package edgestore

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
)

// putAside makes a payload a dead letter, and reports whether it was none before. The ID follows from the payload, so one
// that is told again is the same.
func putAside(tx *sql.Tx, p pending, id string, now time.Time) (added bool, err error) {
	if id == "" {
		return false, errors.New("a dead letter without an ID")
	}
	r, err := tx.Exec("INSERT INTO dead_letters (id, plugin, at, size, record) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", id, p.PluginId, now.UnixNano(), p.size, p.record)
	if err != nil {
		return false, err
	}
	// An order that came before it was answered as one about a letter that is not here.
	if _, err := tx.Exec("DELETE FROM answers WHERE id = ? AND gone", id); err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n > 0, err
}

// dropped is a dead letter that had to go.
type dropped struct {
	plugin uint32
	size   int64
}

// makeRoom drops the dead letters that are too old, and the oldest of those that are too many, and has the hub told.
func makeRoom(tx *sql.Tx, now time.Time) (gone []dropped, err error) {
	var total sql.NullInt64
	if err := tx.QueryRow("SELECT sum(size) FROM dead_letters").Scan(&total); err != nil {
		return nil, err
	}
	for {
		var number, at int64
		var id string
		var d dropped
		err := tx.QueryRow("SELECT number, id, plugin, at, size FROM dead_letters ORDER BY number LIMIT 1").Scan(&number, &id, &d.plugin, &at, &d.size)
		if errors.Is(err, sql.ErrNoRows) {
			return gone, nil
		}
		if err != nil {
			return nil, err
		}
		if total.Int64 <= MaxDeadLetterBytes && now.Sub(time.Unix(0, at)) <= DeadLetterLife {
			return gone, nil
		}
		if _, err := tx.Exec("DELETE FROM dead_letters WHERE number = ?", number); err != nil {
			return nil, err
		}
		if err := errors.Join(answer(tx, id, true), count(tx, d.plugin, "dropped", 1)); err != nil {
			return nil, err
		}
		total.Int64 -= d.size
		gone = append(gone, d)
	}
}

func answer(tx *sql.Tx, id string, gone bool) error {
	_, err := tx.Exec("INSERT OR REPLACE INTO answers (id, gone) VALUES (?, ?)", id, gone)
	return err
}

// forgetLocked takes dropped dead letters off the account. s.mu is held.
func (s *Spool) forgetLocked(room []dropped) {
	for _, d := range room {
		t := s.of(d.plugin)
		t.deadLetters, t.deadBytes, t.dropped = t.deadLetters-1, t.deadBytes-d.size, t.dropped+1
		s.stored--
	}
}

// Order does what the hub orders about dead letters: those to be delivered again are pending anew, with new numbers, and
// may be for another day. What it has done, or can't do, it answers once the order is on the disk: see Answers.
func (s *Spool) Order(orders []*gwv1.DeadLetterOrder) error {
	type moved struct {
		dropped
		again bool
	}
	now, file := s.now(), s.fileNow()
	var all []moved
	err := s.write(func(tx *sql.Tx) error {
		all = nil
		for _, o := range orders {
			var m moved
			var record []byte
			err := tx.QueryRow("SELECT plugin, size, record FROM dead_letters WHERE id = ?", o.Id).Scan(&m.plugin, &m.size, &record)
			if errors.Is(err, sql.ErrNoRows) {
				// What was done before is answered as that, until the hub has heard it.
				if _, err := tx.Exec("INSERT OR IGNORE INTO answers (id, gone) VALUES (?, 1)", o.Id); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return err
			}
			switch o.Action {
			case gwv1.DeadLetterAction_DEAD_LETTER_ACTION_REDELIVER:
				m.again = true
				err = s.insert(tx, m.plugin, now, m.size, record)
			case gwv1.DeadLetterAction_DEAD_LETTER_ACTION_DROP:
			default:
				continue // an order of a later version
			}
			if err == nil {
				_, err = tx.Exec("DELETE FROM dead_letters WHERE id = ?", o.Id)
			}
			if err == nil {
				err = answer(tx, o.Id, false)
			}
			if err != nil {
				return err
			}
			all = append(all, m)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("do what was ordered about dead letters: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if file != s.file {
		return nil
	}
	for _, m := range all {
		t := s.of(m.plugin)
		t.deadLetters, t.deadBytes = t.deadLetters-1, t.deadBytes-m.size
		if m.again {
			s.grow(m.plugin, 1, m.size)
		} else {
			s.stored--
		}
	}
	s.wakeLocked()
	return nil
}

// maxAnswers bounds what one batch tells of dead letters.
const maxAnswers = 1000

// Answers returns what the hub is to be told of dead letters; Answered forgets what it was told.
func (s *Spool) Answers() (answers []*gwv1.DeadLetterAnswer, err error) {
	err = s.read(func(db *sql.DB) error {
		rows, err := db.Query("SELECT id, gone FROM answers ORDER BY id LIMIT ?", maxAnswers)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			a := &gwv1.DeadLetterAnswer{}
			if err := rows.Scan(&a.Id, &a.Gone); err != nil {
				return err
			}
			answers = append(answers, a)
		}
		return rows.Err()
	})
	return answers, err
}

// Answered forgets answers that the hub has heard.
func (s *Spool) Answered(answers []*gwv1.DeadLetterAnswer) error {
	if len(answers) == 0 {
		return nil
	}
	return s.write(func(tx *sql.Tx) error {
		for _, a := range answers {
			if _, err := tx.Exec("DELETE FROM answers WHERE id = ? AND gone = ?", a.Id, a.Gone); err != nil {
				return err
			}
		}
		return nil
	})
}

// Queues returns what every plugin has in the spool, sorted by ID, for the heartbeat.
func (s *Spool) Queues() []*gwv1.PluginQueue {
	s.mu.Lock()
	var queues []*gwv1.PluginQueue
	for plugin, t := range s.plugins {
		if t.accepted == 0 && t.pending == 0 && t.refused == 0 && t.deadLetters == 0 {
			continue
		}
		queues = append(queues, &gwv1.PluginQueue{
			PluginId: plugin, Pending: uint64(t.pending), PendingBytes: uint64(t.bytes), Accepted: t.accepted, Settled: t.settled,
			Expired: t.expired, Refused: t.refused, DeadLetters: uint64(t.deadLetters), DeadLetterBytes: uint64(t.deadBytes),
			DeadLettersDropped: t.dropped, Halted: t.halted,
		})
	}
	s.mu.Unlock()
	slices.SortFunc(queues, func(a, b *gwv1.PluginQueue) int { return int(int64(a.PluginId) - int64(b.PluginId)) })
	for _, q := range queues {
		if at, err := s.oldest(q.PluginId); err == nil && !at.IsZero() {
			q.Oldest = timestamppb.New(at)
		}
	}
	return queues
}
