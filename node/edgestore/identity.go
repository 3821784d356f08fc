package edgestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// The identity is kept twice: without it an edge can't start, and nothing but a join token replaces it.
const (
	identityFile = "identity.pb"
	identityCopy = "identity.copy.pb" // written after it; may be the one before
)

// enrolmentFile is there from before a hub is first asked until there is an identity with its key.
const enrolmentFile = "enrolment.pb"

// Identity returns who this edge is: ErrNone before it enrolled, ErrCorrupt if neither file is what SaveIdentity wrote.
func (s *Store) Identity() (*gwv1.StoredIdentity, error) {
	id, err := s.readIdentity(identityFile)
	if errors.Is(err, ErrCorrupt) {
		if second, copyErr := s.readIdentity(identityCopy); copyErr == nil {
			s.keep.logger().Error("the edge's identity was damaged; its copy is used", "error", err)
			return second, nil
		}
	}
	return id, err
}

func (s *Store) readIdentity(name string) (*gwv1.StoredIdentity, error) {
	path := filepath.Join(s.dir, name)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("identity: %w", ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	id := &gwv1.StoredIdentity{}
	record, err := unstamp(data, "identity")
	if err != nil || proto.Unmarshal(record, id) != nil || len(id.Certificate) == 0 || len(id.PrivateKey) == 0 {
		return nil, fmt.Errorf("identity %s: %w", path, ErrCorrupt) // not err's text: it may quote the key
	}
	return id, nil
}

// SaveIdentity replaces who this edge is. It is on disk, and whole, when SaveIdentity returns nil; after an error the one
// before is until the store, which tries again, has saved it. Only the files' owner can read it: it holds the private key.
// An enrolment with the same key is forgotten.
func (s *Store) SaveIdentity(id *gwv1.StoredIdentity) error {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(id)
	if err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	data, key := stamp(data, "identity"), bytes.Clone(id.PrivateKey)
	return s.keep.put(context.Background(), keepIdentity, "identity", func(context.Context) error {
		for _, name := range []string{identityFile, identityCopy} {
			if err := replaceFile(filepath.Join(s.dir, name), data); err != nil {
				return fmt.Errorf("save identity: %w", err)
			}
		}
		s.forgetEnrolment(key)
		return nil
	})
}

// Enrolment returns what this edge enrols with: ErrNone if nothing is under way, ErrCorrupt if it is not what SaveEnrolment
// wrote.
func (s *Store) Enrolment() (*gwv1.StoredEnrolment, error) {
	path := filepath.Join(s.dir, enrolmentFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("enrolment: %w", ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("enrolment: %w", err)
	}
	e := &gwv1.StoredEnrolment{}
	record, err := unstamp(data, "enrolment")
	if err != nil || proto.Unmarshal(record, e) != nil || len(e.PrivateKey) == 0 || len(e.Csr) == 0 {
		return nil, fmt.Errorf("enrolment %s: %w", path, ErrCorrupt) // not err's text: it may quote the key
	}
	return e, nil
}

// SaveEnrolment replaces what this edge enrols with. It is on disk, and whole, when SaveEnrolment returns nil; it is tried
// once. Only the file's owner can read it: it holds a private key.
func (s *Store) SaveEnrolment(e *gwv1.StoredEnrolment) error {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		return fmt.Errorf("save enrolment: %w", err)
	}
	s.keep.saving.Lock() // an identity that is saved again must not take it away
	defer s.keep.saving.Unlock()
	if err := replaceFile(filepath.Join(s.dir, enrolmentFile), stamp(data, "enrolment")); err != nil {
		return fmt.Errorf("save enrolment: %w", err)
	}
	return nil
}

// forgetEnrolment removes the enrolment with a key. What can't be removed is harmless: the key is in use by now.
func (s *Store) forgetEnrolment(key []byte) {
	if e, err := s.Enrolment(); err != nil || !bytes.Equal(e.PrivateKey, key) {
		return
	}
	if err := os.Remove(filepath.Join(s.dir, enrolmentFile)); err != nil {
		s.keep.logger().Warn("the file an enrolment was kept in could not be removed", "error", err)
	}
}

// replaceFile writes a 0600 file beside path, syncs it and renames it over path.
func replaceFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
