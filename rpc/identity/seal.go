package identity

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/chacha20poly1305"
)

// KeySize is the size of a sealing key, in bytes.
const KeySize = chacha20poly1305.KeySize

// ErrKeyDamaged means that a key file doesn't hold a key.
var ErrKeyDamaged = errors.New("it is not a key file, or it is damaged")

// LoadOrCreateKey returns the 32 bytes in a file, which it makes, readable by its owner only, if it is not there; a process
// that ends meanwhile leaves none. A file that others may read is refused: what it sealed must be taken as known. One that
// has other than 32 bytes is an ErrKeyDamaged.
func LoadOrCreateKey(path string) ([]byte, error) {
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, KeySize)
	rand.Read(key) // never fails
	if err := writeKey(path, key); err != nil {
		return nil, fmt.Errorf("make the key file %s: %w", path, err)
	}
	return key, nil
}

// writeKey makes a key file, whole or not at all, unless there is one.
func writeKey(path string, key []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // unlike a rename, it replaces nothing
		return err
	}
	return syncDir(filepath.Dir(path))
}

func readKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so others may have read it; make it 0600 if you are sure nobody did", path, info.Mode().Perm())
	}
	key, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(key) != KeySize {
		return nil, fmt.Errorf("%s has %d bytes instead of %d: %w", path, len(key), KeySize, ErrKeyDamaged)
	}
	return key, nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Sealer encrypts and authenticates with one key (XChaCha20-Poly1305, random nonces). It is safe for concurrent use.
type Sealer struct{ aead cipher.AEAD }

// NewSealer returns a sealer with a key of KeySize bytes.
func NewSealer(key []byte) (*Sealer, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("use the sealing key: %w", err)
	}
	return &Sealer{aead}, nil
}

// Seal returns the plaintext sealed and bound to these strings, in this order: it opens only with the same ones, so that
// a sealed value can't be passed off as another's.
func (s *Sealer) Seal(plaintext []byte, bound ...string) []byte {
	nonce := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(plaintext)+chacha20poly1305.Overhead)
	rand.Read(nonce) // never fails
	return s.aead.Seal(nonce, nonce, plaintext, binding(bound))
}

// ErrSealed is returned for what was not sealed with this key and bound to these strings, or is damaged.
var ErrSealed = errors.New("sealed with another key, for another name, or damaged")

// Open returns what was sealed. The error is ErrSealed.
func (s *Sealer) Open(sealed []byte, bound ...string) ([]byte, error) {
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, ErrSealed
	}
	plaintext, err := s.aead.Open(nil, sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:], binding(bound))
	if err != nil {
		return nil, ErrSealed
	}
	return plaintext, nil
}

func binding(bound []string) []byte {
	var b []byte
	for _, s := range bound {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}
