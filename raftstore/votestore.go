package raftstore

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// Raft's names for what it wants kept, and ours for a whole vote.
const (
	keyCurrentTerm  = "CurrentTerm"
	keyLastVoteTerm = "LastVoteTerm"
	keyLastVoteCand = "LastVoteCand"
	keyVote         = "Vote"
)

// voteStore keeps Raft's term and vote. Raft writes a vote in two steps, its term and then its candidate; a crash
// between them would leave the new term with the old candidate, and that candidate would be granted a second vote with
// no look at its log (hashicorp/raft#661). So the term is held until its candidate arrives, and both are one value.
type voteStore struct {
	log *logStore

	mu   sync.Mutex
	held []byte // the term of a vote whose candidate hasn't come yet
}

// Set implements raft.StableStore.
func (s *voteStore) Set(key, value []byte) error {
	if string(key) != keyLastVoteCand {
		return s.log.do("write "+string(key), func() error { return s.log.disk.Set(key, value) })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		return fmt.Errorf("write a vote: it has no term")
	}
	vote := append(s.held, value...)
	s.held = nil
	return s.log.do("write a vote", func() error { return s.log.disk.Set([]byte(keyVote), vote) })
}

// SetUint64 implements raft.StableStore.
func (s *voteStore) SetUint64(key []byte, value uint64) error {
	if string(key) == keyLastVoteTerm {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held = binary.BigEndian.AppendUint64(nil, value)
		return nil
	}
	if string(key) == keyCurrentTerm && s.log.failed.get() != nil {
		// Raft panics if it can't write its term. Let it believe that it did: a failed store gives no vote and takes no
		// entry in that term or any other, so nobody can come to rely on it.
		return nil
	}
	err := s.log.do("write "+string(key), func() error { return s.log.disk.SetUint64(key, value) })
	if err != nil && string(key) == keyCurrentTerm {
		return nil // as above
	}
	return err
}

// Get implements raft.StableStore.
func (s *voteStore) Get(key []byte) ([]byte, error) {
	if string(key) != keyLastVoteCand {
		return s.log.disk.Get(key)
	}
	_, candidate, err := s.vote()
	return candidate, err
}

// GetUint64 implements raft.StableStore.
func (s *voteStore) GetUint64(key []byte) (uint64, error) {
	if string(key) != keyLastVoteTerm {
		return s.log.disk.GetUint64(key)
	}
	term, _, err := s.vote()
	return term, err
}

func (s *voteStore) vote() (term uint64, candidate []byte, err error) {
	vote, err := s.log.disk.Get([]byte(keyVote))
	if err != nil {
		return 0, nil, err
	}
	if len(vote) < 8 {
		return 0, nil, fmt.Errorf("read the last vote: it has %d bytes", len(vote))
	}
	return binary.BigEndian.Uint64(vote), vote[8:], nil
}
