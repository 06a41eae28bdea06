package acme

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Record is everything that is remembered of one certificate. A Storage keeps
// it as one object, so that a crash leaves it as it was before or after.
type Record struct {
	ID     string   `json:"id"`
	Owner  string   `json:"owner,omitempty"`
	Names  []string `json:"names"` // sorted, canonical
	Issuer string   `json:"issuer"`
	// Chain and Key are the certificate in PEM; empty before the first.
	Chain []byte `json:"chain,omitempty"`
	Key   []byte `json:"key,omitempty"`
	// Directory is that of the ACME server that issued Chain; empty: none did,
	// or it is not known. Another one knows nothing of the certificate.
	Directory string `json:"directory,omitempty"`
	// Roots are what clients should trust Chain by, in PEM, where the CA is our
	// own; empty: they know it.
	Roots []byte `json:"roots,omitempty"`
	// Issued is when Chain came, by the clock of who ordered it.
	Issued time.Time `json:"issued,omitzero"`
	// Sequence grows with each certificate, also where the record was lost in
	// between: it is the time of issue in Unix seconds, or one more than that of
	// the last, in the record or wherever it was written.
	Sequence int64 `json:"sequence,omitempty"`
	// Hasty counts the certificates in a row that were due as soon as they
	// came.
	Hasty int `json:"hasty,omitempty"`
	// NextKey is stored before a CSR with it is sent, so that no certificate
	// is issued whose key a crash has lost. It becomes Key.
	NextKey []byte `json:"nextKey,omitempty"`
	// Order is set while an order is in flight, or was when its process died.
	Order    *Order      `json:"order,omitempty"`
	Renewal  *Suggestion `json:"renewal,omitempty"`
	Failures Failures    `json:"failures,omitzero"`
	// Version is the Storage's mark of what was read; empty: not stored yet.
	Version string `json:"-"`

	leaf *x509.Certificate // what Chain begins with, parsed once; nil: not yet
}

// Order tells of an order in flight.
type Order struct {
	Since  time.Time `json:"since"`
	Holder string    `json:"holder"`
}

// Suggestion is what the CA says about renewal (RFC 9773).
type Suggestion struct {
	// At is a random time in the CA's window, chosen once for each window;
	// zero if the CA makes no suggestion.
	At    time.Time `json:"at,omitzero"`
	Start time.Time `json:"start,omitzero"`
	End   time.Time `json:"end,omitzero"`
	// Next is when to ask again.
	Next time.Time `json:"next"`
	// Explanation is the CA's page about it; may be empty.
	Explanation string `json:"explanation,omitempty"`
}

// Failures are the attempts since the last success.
type Failures struct {
	Count  int       `json:"count"`
	Last   time.Time `json:"last"`
	Reason Reason    `json:"reason"`
	// Message has the CA's own words.
	Message string `json:"message"`
	// Account names the account, and so the directory, that was asked: what it
	// said does not mean another one.
	Account string `json:"account,omitempty"`
	// RetryAfter is until when the CA does not want to be asked again.
	RetryAfter time.Time `json:"retryAfter,omitzero"`
	// Wide tells that the CA has had enough of the account or of us, not of
	// these names: nothing is ordered by this account before the next attempt
	// with this certificate.
	Wide bool `json:"wide,omitempty"`
	// First is when an attempt first failed for this reason, and Told when that
	// was last told in an Event.
	First time.Time `json:"first,omitzero"`
	Told  time.Time `json:"told,omitzero"`
	// Validations are the failed validations of the last hour by host. They
	// outlive a success.
	Validations map[string][]time.Time `json:"validations,omitempty"`
}

// Leaf returns the certificate, nil if there is none.
func (r *Record) Leaf() *x509.Certificate {
	if r.leaf != nil {
		return r.leaf
	}
	block, _ := pem.Decode(r.Chain)
	if block == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return leaf
}

// knownTo reports whether an issuer's server may know the certificate: its
// directory may have been configured anew since.
func (r *Record) knownTo(i *Issuer) bool { return r.Directory == "" || r.Directory == i.Directory }

// finish makes a record ready to be shared: nobody writes to it again.
func (r *Record) finish() *Record {
	r.leaf = r.Leaf()
	return r
}

// Encode returns the record without its certificate and keys, for Storages
// that keep those apart.
func (r *Record) Encode() ([]byte, error) {
	plain := *r
	plain.Chain, plain.Key, plain.NextKey = nil, nil, nil
	return json.Marshal(&plain)
}

// DecodeRecord reads a record, and checks that it is one of the given ID.
func DecodeRecord(id string, data []byte) (*Record, error) {
	r := new(Record)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("the record of a certificate cannot be read: %w", err)
	}
	switch {
	case r.ID != id:
		return nil, fmt.Errorf("the record of certificate %s says that it is of %q", id, r.ID)
	case len(r.Names) == 0 || r.ID != ID(r.Owner, r.Issuer, r.Names):
		return nil, errors.New("the record of a certificate is not for the names that it lists")
	}
	return r, nil
}

// clone returns a copy that shares only what is never written to.
func (r *Record) clone() *Record {
	c := *r
	c.leaf = nil // the copy may get another chain
	c.Names = slices.Clone(r.Names)
	if r.Order != nil {
		o := *r.Order
		c.Order = &o
	}
	if r.Renewal != nil {
		s := *r.Renewal
		c.Renewal = &s
	}
	c.Failures.Validations = make(map[string][]time.Time, len(r.Failures.Validations))
	for host, times := range r.Failures.Validations {
		c.Failures.Validations[host] = slices.Clone(times)
	}
	return &c
}
