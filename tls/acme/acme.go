// Package acme gets certificates from certificate authorities by ACME (RFC
// 8555) or from a CA of one's own, and gets them again in time. certmagic
// places the orders and keeps the accounts; what certificates there are to be,
// when each is due, and what is remembered of it is decided here: one
// certificate with all the names of an entry, where certmagic would make one
// for each name.
//
// One process of a cluster runs the Manager; every process answers challenges
// from its Tokens. What they share lies in a Storage.
package acme

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
)

// ErrConflict is returned by PutRecord and DeleteRecord when the record was
// changed by somebody else since it was read.
var ErrConflict = errors.New("the record was changed by another process")

// Storage is what the processes of a cluster share: certmagic's own storage of
// accounts and challenge tokens, a record of each certificate, and locks. Safe
// for concurrent use.
type Storage interface {
	certmagic.Storage
	// Record returns one record; fs.ErrNotExist if there is none.
	Record(ctx context.Context, id string) (*Record, error)
	// Records returns all records.
	Records(ctx context.Context) ([]*Record, error)
	// PutRecord creates a record whose Version is empty, or replaces exactly
	// the version that was read. It sets the new Version.
	PutRecord(ctx context.Context, r *Record) error
	// DeleteRecord deletes exactly the version that was read.
	DeleteRecord(ctx context.Context, r *Record) error
	// Hold waits for a lock. The context that it returns ends as soon as the
	// lock may be another's; release gives it up and may be called once.
	Hold(ctx context.Context, name string) (held context.Context, release func(), err error)
}

// ID names the record of an owner's certificate for a set of names by an issuer.
// It says nothing of them and is safe in file and object names. Two owners never
// share a record: a host that changes hands takes no private key along.
func ID(owner, issuer string, names []string) string {
	return digest(append([]string{owner, issuer}, sorted(names)...))
}

// lockName is the same for the same names whoever issues: there is one order
// for a set of names at a time.
func lockName(names []string) string { return "names-" + digest(sorted(names)) }

func digest(words []string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:16])
}

func sorted(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}
