package acme

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/ocsp"

	"github.com/portico-ingress/portico/tls/certstore"
)

// StaplerOptions configure a Stapler. Log is required.
type StaplerOptions struct {
	// Changed is told that a certificate has another staple, or none any
	// more; may be nil. It must not block.
	Changed func()
	Client  *http.Client // nil: one with a timeout that follows no redirects
	Now     func() time.Time
	Log     *zap.Logger
}

// Stapler keeps OCSP responses (RFC 6960) for certificates that name a
// responder. A response that is not good, or not for now, is never stapled: a
// client then asks for itself, or does not. Safe for concurrent use; Stapled
// answers from memory.
type Stapler struct {
	opts StaplerOptions // const after NewStapler
	wake chan struct{}

	mu      sync.Mutex // protects the following
	staples map[string]*staple
	asking  int // how many are asked for
}

// staple is what is known of one certificate's status.
type staple struct {
	leaf, issuer *x509.Certificate // never change

	cert    *certstore.Certificate // as it was given
	stapled *certstore.Certificate // nil: there is no response
	until   time.Time              // when the response is not stapled any more, before it ends
	next    time.Time              // when to ask
	within  time.Duration          // how long that was from the answer before
	failed  int
	asking  bool
}

const (
	stapleTimeout = 10 * time.Second
	maxStaple     = 64 << 10 // real ones have less than 4 KiB
	// stapleMargin is how long before its end a response is not stapled any
	// more, or a tenth of its life: handshakes and clocks of clients take time.
	stapleMargin = time.Minute
	// maxAsks bounds the questions at one time.
	maxAsks = 8
	// stapleFirst and stapleLongest bound the wait after a failure; the first is
	// the shortest after an answer, too.
	stapleFirst   = time.Minute
	stapleLongest = time.Hour
	// stapleDefault is how long a response without an end is served.
	stapleDefault = 24 * time.Hour
)

// NewStapler returns a Stapler that knows no certificate.
func NewStapler(o StaplerOptions) *Stapler {
	if o.Client == nil {
		o.Client = &http.Client{Timeout: stapleTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	return &Stapler{opts: o, wake: make(chan struct{}, 1), staples: make(map[string]*staple)}
}

// Want replaces the certificates that there are to be staples for.
func (s *Stapler) Want(list []*certstore.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := make(map[string]*staple, len(list))
	for _, c := range list {
		if len(c.Leaf.OCSPServer) == 0 || len(c.TLS.Certificate) < 2 {
			continue
		}
		key := string(c.Leaf.Raw)
		known := s.staples[key]
		if known == nil {
			issuer, err := x509.ParseCertificate(c.TLS.Certificate[1])
			if err != nil {
				continue
			}
			known = &staple{leaf: c.Leaf, issuer: issuer, cert: c}
			s.signal()
		}
		keep[key] = known
	}
	s.staples = keep
}

func (s *Stapler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Stapled returns the certificate with a response that is good now, nil if there
// is none. For one response it always returns the same.
func (s *Stapler) Stapled(c *certstore.Certificate) *certstore.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.staples[string(c.Leaf.Raw)]
	if known == nil || known.stapled == nil || !s.opts.Now().Before(known.until) {
		return nil
	}
	if known.cert != c { // the same certificate from another source
		known.cert, known.stapled = c, c.WithStaple(known.stapled.TLS.OCSPStaple)
	}
	return known.stapled
}

// Start asks responders until ctx ends, several at a time, and has responses go
// before they end, whoever answers.
func (s *Stapler) Start(ctx context.Context) {
	var asks sync.WaitGroup
	defer asks.Wait()
	for ctx.Err() == nil {
		due, ended, wait := s.due()
		for _, known := range due {
			asks.Go(func() { s.refresh(ctx, known); s.signal() })
		}
		if ended {
			s.opts.Changed()
		}
		timer := time.NewTimer(wait)
		select {
		case <-s.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// due drops the responses that end, and tells whether there were any. It returns
// the staples to ask for now, as far as there is room, and how long to wait; each
// that is done wakes Start.
func (s *Stapler) due() (due []*staple, ended bool, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.Now()
	wait = look
	for _, known := range s.staples {
		if known.stapled == nil {
			continue
		}
		if left := known.until.Sub(now); left > 0 {
			wait = min(wait, left)
		} else {
			known.stapled, ended = nil, true
		}
	}
	for _, known := range s.staples {
		left := known.next.Sub(now)
		if left > known.within {
			left = 0 // said under another clock
		}
		switch {
		case known.asking || left <= 0 && s.asking >= maxAsks:
		case left > 0:
			wait = min(wait, left)
		default:
			known.asking = true
			s.asking++
			due = append(due, known)
		}
	}
	return due, ended, wait
}

func (s *Stapler) refresh(ctx context.Context, known *staple) {
	limit, cancel := context.WithTimeout(ctx, stapleTimeout)
	defer cancel()
	text, response, err := s.ask(limit, known.leaf, known.issuer)
	s.mu.Lock()
	known.asking = false
	s.asking--
	if ctx.Err() != nil {
		s.mu.Unlock()
		return
	}
	known.learn(text, response, err, s.opts.Now())
	s.mu.Unlock()
	if err != nil {
		s.opts.Log.Warn("an OCSP response could not be had; the certificate is served without it, or with the last as long as that is valid",
			zap.Strings("names", known.leaf.DNSNames), zap.Error(err))
	}
	s.opts.Changed()
}

// learn takes what a responder has answered.
func (k *staple) learn(text []byte, response *ocsp.Response, err error, now time.Time) {
	defer func() { k.within = k.next.Sub(now) }()
	if err != nil {
		k.failed++
		k.next = now.Add(min(stapleFirst<<min(k.failed-1, 10), stapleLongest))
		if errors.As(err, new(*statusError)) || !k.until.After(now) {
			k.stapled = nil
		}
		return
	}
	end := response.NextUpdate
	if end.IsZero() {
		end = response.ThisUpdate.Add(stapleDefault)
	}
	k.until = end.Add(-min(stapleMargin, end.Sub(response.ThisUpdate)/10))
	k.next, k.failed = now.Add(max(end.Sub(now)/2, stapleFirst)), 0
	if k.stapled = k.cert.WithStaple(text); !k.until.After(now) {
		k.stapled = nil
	}
}

// statusError tells that the CA does not vouch for the certificate.
type statusError struct{ status int }

func (e *statusError) Error() string {
	words := map[int]string{ocsp.Revoked: "the CA has revoked the certificate", ocsp.Unknown: "the responder does not know the certificate"}
	return cmp.Or(words[e.status], fmt.Sprintf("the responder answers status %d", e.status))
}

// ask asks the certificate's first responder, and believes only a response that
// its issuer signed for it and that is valid now.
func (s *Stapler) ask(ctx context.Context, leaf, issuer *x509.Certificate) ([]byte, *ocsp.Response, error) {
	request, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, leaf.OCSPServer[0], bytes.NewReader(request))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	resp, err := s.opts.Client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxStaple+1))
	switch {
	case err != nil:
		return nil, nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, nil, fmt.Errorf("the responder %s answers %s", leaf.OCSPServer[0], resp.Status)
	case len(text) > maxStaple:
		return nil, nil, fmt.Errorf("the responder %s answers with more than %d bytes", leaf.OCSPServer[0], maxStaple)
	}
	response, err := ocsp.ParseResponseForCert(text, leaf, issuer)
	if err != nil {
		return nil, nil, err
	}
	return text, response, s.believe(response)
}

func (s *Stapler) believe(r *ocsp.Response) error {
	now := s.opts.Now()
	switch {
	case r.Status != ocsp.Good:
		return &statusError{r.Status}
	case r.ThisUpdate.After(now.Add(caSkew)):
		return fmt.Errorf("the response is not valid before %s", r.ThisUpdate.UTC().Format(time.RFC3339))
	case !r.NextUpdate.IsZero() && !r.NextUpdate.After(now):
		return fmt.Errorf("the response ended at %s", r.NextUpdate.UTC().Format(time.RFC3339))
	}
	return nil
}
