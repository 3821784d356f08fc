package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math/big"
	"strings"
)

// Prefixes of credentials, so that people and secret scanners recognise them.
const (
	AppTokenPrefix   = "gw_"
	BearerPrefix     = "gwa_"
	JoinTokenPrefix  = "gwj_"
	credentialDigits = 43 // of base62 for 32 bytes
	checksumDigits   = 6  // of base62 for a CRC-32
)

// NewCredential returns prefix, 32 random bytes in base62 and a checksum, 49 characters after the prefix.
func NewCredential(prefix string) string {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	s := prefix + base62(new(big.Int).SetBytes(secret), credentialDigits)
	return s + base62(new(big.Int).SetUint64(uint64(crcOf(s))), checksumDigits)
}

func base62(n *big.Int, digits int) string {
	s := n.Text(62)
	return strings.Repeat("0", digits-len(s)) + s
}

// CheckCredential reports whether s has the shape and the checksum of a credential with this prefix. It tells mistyped
// and foreign strings apart without asking anyone; it does not say that the credential was ever given out. It does not
// allocate.
func CheckCredential(prefix, s string) bool {
	if len(s) != len(prefix)+credentialDigits+checksumDigits || !strings.HasPrefix(s, prefix) {
		return false
	}
	border := len(s) - checksumDigits
	var sum uint64
	for i := len(prefix); i < len(s); i++ {
		digit, ok := digit62(s[i])
		if !ok {
			return false
		}
		if i >= border {
			sum = sum*62 + digit
		}
	}
	return sum == uint64(crcOf(s[:border]))
}

// crcOf is crc32.ChecksumIEEE of a string. The library's function makes its argument escape, which would cost every
// request an allocation.
func crcOf(s string) uint32 {
	crc := ^uint32(0)
	for i := range len(s) {
		crc = crc32.IEEETable[byte(crc)^s[i]] ^ crc>>8
	}
	return ^crc
}

// digit62 is the value of a digit as big.Int.Text(62) writes it.
func digit62(c byte) (uint64, bool) {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0'), true
	case c >= 'a' && c <= 'z':
		return uint64(c-'a') + 10, true
	case c >= 'A' && c <= 'Z':
		return uint64(c-'A') + 36, true
	}
	return 0, false
}

// HashCredential returns the SHA-256 of a credential, the only form in which one is stored, sent or cached. It does not
// allocate for credentials of ours.
func HashCredential(s string) [sha256.Size]byte {
	var buf [128]byte
	if len(s) > len(buf) {
		return sha256.Sum256([]byte(s))
	}
	return sha256.Sum256(buf[:copy(buf[:], s)])
}

// Hint returns a credential's first characters, enough to recognise it by and far too few to use it.
func Hint(s string) string {
	prefix, _, ok := strings.Cut(s, "_")
	if !ok || len(s) < len(prefix)+5 {
		return ""
	}
	return s[:len(prefix)+5] + "…"
}

// JoinToken is what a process enrols with.
type JoinToken struct {
	// Pin of the CA of the cluster to join.
	Pin Pin
	// ID names the token at the hubs: 16 hexadecimal digits.
	ID string
	// Secret proves it: 32 bytes.
	Secret []byte
}

// ErrJoinToken is returned for what is not a join token.
var ErrJoinToken = errors.New(`not a join token: it begins with "gwj_" and is 107 characters long; was it cut off?`)

const (
	joinTokenVersion = 1
	joinTokenSize    = 1 + sha256.Size + 8 + 32 + 4
)

// NewJoinToken makes a join token for the cluster with this CA pin.
func NewJoinToken(pin Pin) JoinToken {
	b := make([]byte, 8+32)
	rand.Read(b) // never fails
	return JoinToken{Pin: pin, ID: hex.EncodeToString(b[:8]), Secret: b[8:]}
}

// String returns the token as it is handed to people: it holds the secret.
func (t JoinToken) String() string {
	b := append(make([]byte, 0, joinTokenSize), joinTokenVersion)
	b = append(b, t.Pin[:]...)
	id, _ := hex.DecodeString(t.ID)
	b = append(b, id...)
	b = append(b, t.Secret...)
	sum := crc32.ChecksumIEEE(b)
	b = append(b, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
	return JoinTokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseJoinToken reads a join token. The error is ErrJoinToken.
func ParseJoinToken(s string) (JoinToken, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(s), JoinTokenPrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != joinTokenSize || b[0] != joinTokenVersion {
		return JoinToken{}, ErrJoinToken
	}
	body, tail := b[:joinTokenSize-4], b[joinTokenSize-4:]
	sum := crc32.ChecksumIEEE(body)
	if tail[0] != byte(sum>>24) || tail[1] != byte(sum>>16) || tail[2] != byte(sum>>8) || tail[3] != byte(sum) {
		return JoinToken{}, ErrJoinToken
	}
	return JoinToken{Pin: Pin(body[1:33]), ID: hex.EncodeToString(body[33:41]), Secret: body[41:]}, nil
}
