package identity

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/crypto/argon2"
)

// The cost of a password hash: the second recommended option of RFC 9106 does not fit a small hub, so this is OWASP's
// argon2id setting of 19 MiB and two passes.
const (
	passwordMemory = 19 << 10 // KiB
	passwordTime   = 2
	passwordSalt   = 16
	passwordKey    = 32
)

// hashing lets one password be hashed at a time, so that sign-ins can't take a hub's memory.
var hashing sync.Mutex

// HashPassword returns the argon2id hash of a password with a fresh salt, in its customary encoding. It takes some tens
// of milliseconds, and waits for its turn.
func HashPassword(password string) string {
	salt := make([]byte, passwordSalt)
	rand.Read(salt) // never fails
	key := hashPassword(password, salt, passwordTime, passwordMemory)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, passwordMemory, passwordTime,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))
}

// VerifyPassword reports whether a password is the one that HashPassword encoded. For an encoding it can't read it takes
// as long and reports false.
func VerifyPassword(encoded, password string) bool {
	var (
		version      int
		memory, time uint32
	)
	parts := strings.Split(encoded, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		parts = make([]string, 6)
	}
	fmt.Sscanf(parts[2], "v=%d", &version)
	fmt.Sscanf(parts[3], "m=%d,t=%d,p=1", &memory, &time)
	salt, saltErr := base64.RawStdEncoding.DecodeString(parts[4])
	want, keyErr := base64.RawStdEncoding.DecodeString(parts[5])
	readable := saltErr == nil && keyErr == nil && version == argon2.Version && len(want) == passwordKey &&
		memory > 0 && memory <= 1<<20 && time > 0 && time <= 16
	if !readable {
		memory, time = passwordMemory, passwordTime
	}
	got := hashPassword(password, salt, time, memory)
	return subtle.ConstantTimeCompare(got, want) == 1 && readable
}

func hashPassword(password string, salt []byte, time, memory uint32) []byte {
	hashing.Lock()
	defer hashing.Unlock()
	return argon2.IDKey([]byte(password), salt, time, memory, 1, passwordKey)
}
