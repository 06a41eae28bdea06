package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	acmelib "github.com/mholt/acmez/v3/acme"
)

const (
	// tokenWait is how long a validation request waits for its token to
	// arrive, where an order for its host is known to be in flight.
	tokenWait = 3 * time.Second
	// maxWaiters bounds the requests that wait.
	maxWaiters = 256
	// orderAge is how long an order that nobody finished is waited for.
	orderAge = 10 * time.Minute
	// challengeFolder is where certmagic keeps challenges below an issuer.
	challengeFolder = "challenge_tokens"
)

// Tokens are the challenges that may be asked for just now, wherever they were
// ordered. Fed by a Storage or by what watches one. Safe for concurrent use;
// answers come from memory.
type Tokens struct {
	now func() time.Time

	mu         sync.Mutex // protects the following
	challenges map[string]acmelib.Challenge
	byHost     map[string][]string // host: keys of challenges
	inFlight   map[string]flight   // by record
	waiters    int
	changed    chan struct{}
}

// flight is an order that some process has in flight.
type flight struct {
	hosts []string
	since time.Time
}

// NewTokens returns Tokens without any challenge. now may be nil.
func NewTokens(now func() time.Time) *Tokens {
	if now == nil {
		now = time.Now
	}
	return &Tokens{
		now: now, challenges: make(map[string]acmelib.Challenge), byHost: make(map[string][]string),
		inFlight: make(map[string]flight), changed: make(chan struct{}),
	}
}

// IsToken reports whether a storage key holds a challenge.
func IsToken(key string) bool { return path.Base(path.Dir(key)) == challengeFolder }

// tokenKey is where a challenge is to be stored for which certmagic has a key for
// its host. Two processes that both think that they order, and each have a host
// validated by HTTP-01, so keep both tokens, and either deletes its own. For
// TLS-ALPN-01 nobody says which of two is asked for: the last one counts.
func tokenKey(key string, value []byte) string {
	var c acmelib.Challenge
	if !IsToken(key) || json.Unmarshal(value, &c) != nil || c.Type != acmelib.ChallengeTypeHTTP01 {
		return key
	}
	return path.Join(path.Dir(key), digest([]string{c.Identifier.Value, c.Token})+".json")
}

// Set takes what is stored under a key. What is no challenge is ignored.
func (t *Tokens) Set(key string, value []byte) {
	var c acmelib.Challenge
	if !IsToken(key) || json.Unmarshal(value, &c) != nil || c.Identifier.Value == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(key)
	host := strings.ToLower(c.Identifier.Value)
	t.challenges[key] = c
	t.byHost[host] = append(t.byHost[host], key)
	t.notify()
}

// Delete forgets what was stored under a key.
func (t *Tokens) Delete(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(key)
}

// remove is called with mu held.
func (t *Tokens) remove(key string) {
	c, ok := t.challenges[key]
	if !ok {
		return
	}
	host := strings.ToLower(c.Identifier.Value)
	delete(t.challenges, key)
	t.byHost[host] = slices.DeleteFunc(t.byHost[host], func(k string) bool { return k == key })
	if len(t.byHost[host]) == 0 {
		delete(t.byHost, host)
	}
}

// Flight says whether an order for a record is in flight: requests for tokens
// of its hosts then wait a moment for theirs.
func (t *Tokens) Flight(r *Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.Order == nil {
		delete(t.inFlight, r.ID)
		return
	}
	t.inFlight[r.ID] = flight{hosts: r.Names, since: r.Order.Since}
}

// Land says that a record is gone.
func (t *Tokens) Land(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.inFlight, id)
}

func (t *Tokens) notify() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// Respond returns the key authorization for an HTTP-01 challenge (RFC 8555
// §8.3) if exactly this token for exactly this host is known. It waits for at
// most three seconds, and only where an order for the host is in flight.
func (t *Tokens) Respond(ctx context.Context, host, token string) (string, bool) {
	c, ok := t.await(ctx, host, func(c acmelib.Challenge) bool {
		return c.Type == acmelib.ChallengeTypeHTTP01 && c.Token == token
	})
	return c.KeyAuthorization, ok
}

// Certificate returns the certificate that answers a TLS-ALPN-01 challenge
// (RFC 8737 §3) for a server name, nil if no challenge is known. It waits as
// Respond does; only validating servers ask for it.
func (t *Tokens) Certificate(ctx context.Context, host string) *tls.Certificate {
	c, ok := t.await(ctx, host, func(c acmelib.Challenge) bool { return c.Type == acmelib.ChallengeTypeTLSALPN01 })
	if !ok {
		return nil
	}
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return nil
	}
	return cert
}

func (t *Tokens) await(ctx context.Context, host string, wanted func(acmelib.Challenge) bool) (acmelib.Challenge, bool) {
	t.mu.Lock()
	c, ok := t.find(host, wanted)
	if ok || !t.expects(host) || t.waiters >= maxWaiters {
		t.mu.Unlock()
		return c, ok
	}
	t.waiters++
	defer func() { t.waiters--; t.mu.Unlock() }()
	timer := time.NewTimer(tokenWait)
	defer timer.Stop()
	for {
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			t.mu.Lock()
			return c, false
		case <-ctx.Done():
			t.mu.Lock()
			return c, false
		}
		t.mu.Lock()
		if c, ok = t.find(host, wanted); ok {
			return c, true
		}
	}
}

// find is called with mu held.
func (t *Tokens) find(host string, wanted func(acmelib.Challenge) bool) (acmelib.Challenge, bool) {
	for _, key := range t.byHost[host] {
		if c := t.challenges[key]; wanted(c) {
			return c, true
		}
	}
	return acmelib.Challenge{}, false
}

// expects reports whether an order for the host is in flight. Called with mu
// held; orders in flight are few.
func (t *Tokens) expects(host string) bool {
	for _, f := range t.inFlight {
		if t.now().Sub(f.since).Abs() < orderAge && slices.Contains(f.hosts, host) {
			return true
		}
	}
	return false
}
