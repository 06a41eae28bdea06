package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	acmelib "github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// client places the orders of one issuer. Each order in flight has an
// ACMEIssuer of certmagic for itself: what the CA says in its headers can only
// be had from certmagic's log, and must not be taken for another order's.
type client struct {
	issuer  *Issuer
	config  *certmagic.Config
	storage certmagic.Storage
	addrs   Addrs
	log     *zap.Logger

	mu   sync.Mutex // protects the following
	idle map[seatKey][]*seat
}

// seat is an ACMEIssuer and what its CA last said in its headers.
type seat struct {
	*certmagic.ACMEIssuer
	heard *hearing
}

// seatKey is what a seat is for. Each directory has seats of its own: certmagic
// knows a test directory too, but looks for its accounts at the other one's.
type seatKey struct{ directory, challenge string }

// Addrs are the listeners that answer challenges in this process, HOST:PORT;
// empty: there is none. certmagic finds them taken and opens none of its own.
type Addrs struct{ HTTP, HTTPS string }

// IdentifyAs says what ACME servers are told in User-Agent (RFC 8555 §6.1), before
// the names of the libraries. It is for a program to call before any Manager is
// started; certmagic takes it from a variable.
func IdentifyAs(program, version string) {
	certmagic.UserAgent = program + "/" + strings.Trim(version, "()")
}

func newClient(i *Issuer, cache *certmagic.Cache, storage Storage, addrs Addrs, log *zap.Logger) *client {
	log = quiet(log).With(zap.String("issuer", i.Name))
	own := &issuerStorage{Storage: storage, prefix: path.Join("issuers", i.Name)}
	return &client{
		issuer: i, storage: own, addrs: addrs, log: log, idle: make(map[seatKey][]*seat),
		config: certmagic.New(cache, certmagic.Config{Storage: own, Logger: log, OCSP: certmagic.OCSPConfig{DisableStapling: true}}),
	}
}

// obtain places one order and returns the chain in PEM. replaces is the
// certificate that is renewed, or nil (RFC 9773 §5); first tells that there was
// none before: then the test directory, if there is one, has to issue it too.
func (c *client) obtain(ctx context.Context, csr *x509.CertificateRequest, challenge string, replaces *x509.Certificate, first bool) ([]byte, error) {
	if first && c.issuer.Staging != "" {
		if _, err := c.issue(ctx, csr, seatKey{c.issuer.Staging, challenge}); err != nil {
			return nil, err
		}
	}
	if replaces != nil {
		ctx = renewal{ctx, replaces}
	}
	return c.issue(ctx, csr, seatKey{c.issuer.Directory, challenge})
}

// issue places one order at one directory.
func (c *client) issue(ctx context.Context, csr *x509.CertificateRequest, at seatKey) ([]byte, error) {
	s, err := c.take(ctx, csr.DNSNames, at)
	if err != nil {
		return nil, c.said(at, classify(err))
	}
	defer c.give(at, s)
	s.heard.reset()
	issued, err := s.Issue(ctx, csr)
	if err != nil && err.Error() == forgotten {
		issued, err = s.Issue(ctx, csr)
	}
	if err != nil {
		f := classify(err)
		f.retryAfter = s.heard.retryAfter()
		f.wide = wide(f, err, csr.DNSNames)
		return nil, c.said(at, f)
	}
	return issued.Certificate, nil
}

// said marks a failure as one of a directory.
func (c *client) said(at seatKey, f *failure) *failure {
	f.account = c.issuer.account(at.directory)
	return f
}

// forgotten is what certmagic says after it has registered anew an account that
// the CA did not know any more: it goes on to order with the old one.
const forgotten = "no certificate chains"

// take returns an ACMEIssuer that nobody uses.
func (c *client) take(ctx context.Context, names []string, at seatKey) (*seat, error) {
	c.mu.Lock()
	if idle := c.idle[at]; len(idle) > 0 {
		s := idle[len(idle)-1]
		c.idle[at] = idle[:len(idle)-1]
		c.mu.Unlock()
		return s, nil
	}
	c.mu.Unlock()
	heard := &hearing{}
	template, err := c.template(at)
	if err != nil {
		return nil, err
	}
	template.Logger = c.log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return &listener{core, heard} }))
	s := &seat{certmagic.NewACMEIssuer(c.config, template), heard}
	if c.issuer.Email != "" {
		// Without an address certmagic would look for that of another
		// issuer.
		if err := s.PreCheck(ctx, names, false); err != nil {
			return nil, &failure{reason: ReasonRefused, message: err.Error()}
		}
	}
	return s, nil
}

func (c *client) give(at seatKey, s *seat) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle[at] = append(c.idle[at], s)
}

func (c *client) template(at seatKey) (certmagic.ACMEIssuer, error) {
	i := c.issuer
	t := certmagic.ACMEIssuer{
		CA: at.directory, Email: i.Email, Agreed: true, Profile: i.Profile, TrustedRoots: i.Roots,
		DisableHTTPChallenge: at.challenge != HTTP01, DisableTLSALPNChallenge: at.challenge != TLSALPN01,
		CertObtainTimeout: i.Timeout, NewAccountFunc: c.keepAccountKey,
	}
	if i.EAB != nil {
		t.ExternalAccount = &acmelib.EAB{KeyID: i.EAB.KeyID, MACKey: i.EAB.MACKey}
	}
	if i.PreferredRoot != "" {
		t.PreferredChains.RootCommonName = []string{i.PreferredRoot}
	}
	var err error
	switch at.challenge {
	case HTTP01:
		t.ListenHost, t.AltHTTPPort, err = listening(c.addrs.HTTP, "--http-addr")
	case TLSALPN01:
		t.ListenHost, t.AltTLSALPNPort, err = listening(c.addrs.HTTPS, "--https-addr")
	case DNS01:
		if i.DNS == nil {
			return t, &failure{reason: ReasonChallenge, message: "issuer " + i.Name + " has no DNS provider"}
		}
		t.DNS01Solver = &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
			DNSProvider: i.DNS.Provider, TTL: time.Minute, Resolvers: i.DNS.Resolvers,
			OverrideDomain: i.DNS.Delegate, PropagationTimeout: i.DNS.PropagationTimeout, Logger: c.log,
		}}
	}
	return t, err
}

func listening(addr, flag string) (host string, port int, err error) {
	if addr == "" {
		return "", 0, &failure{reason: ReasonChallenge, message: "the challenge needs " + flag}
	}
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(text)
	return host, port, err
}

// keepAccountKey stores the key of a new account before the CA learns of it: a
// process that dies between the two finds its account again, since a CA that
// knows a key returns the account it is for (RFC 8555 §7.3.1).
func (c *client) keepAccountKey(ctx context.Context, iss *certmagic.ACMEIssuer, account acmelib.Account) (acmelib.Account, error) {
	where := path.Join("account_keys", certmagic.StorageKeys.Safe(iss.IssuerKey()+"_"+c.issuer.Email)+".key")
	text, err := c.storage.Load(ctx, where)
	switch {
	case err == nil:
		account.PrivateKey, err = certmagic.PEMDecodePrivateKey(text)
		if err != nil {
			return account, fmt.Errorf("%w: the account key at %s cannot be read", errStorage, where)
		}
		return account, nil
	case !errors.Is(err, fs.ErrNotExist):
		return account, fmt.Errorf("%w: %w", errStorage, err)
	}
	text, err = certmagic.PEMEncodePrivateKey(account.PrivateKey)
	if err != nil {
		return account, err
	}
	if err := c.storage.Store(ctx, where, text); err != nil {
		return account, fmt.Errorf("%w: %w", errStorage, err)
	}
	return account, nil
}

// ask asks the CA when to renew.
func (c *client) ask(ctx context.Context, leaf *x509.Certificate) (acmelib.RenewalInfo, error) {
	at := seatKey{directory: c.issuer.Directory}
	s, err := c.take(ctx, leaf.DNSNames, at)
	if err != nil {
		return acmelib.RenewalInfo{}, err
	}
	defer c.give(at, s)
	return s.GetRenewalInfo(ctx, certmagic.Certificate{Certificate: tls.Certificate{Leaf: leaf}})
}

// renewal is a context that tells certmagic which certificate an order
// replaces. certmagic's own key for that is not exported; a test holds that
// the order says it.
type renewal struct {
	context.Context
	leaf *x509.Certificate
}

func (r renewal) Value(key any) any {
	if fmt.Sprintf("%T %v", key, key) == "certmagic.ctxKey ari_replaces" {
		return r.leaf
	}
	return r.Context.Value(key)
}

// issuerStorage gives each issuer a part of the storage for itself: accounts
// of two issuers with one directory stay apart.
type issuerStorage struct {
	Storage
	prefix string
	tokens sync.Map // certmagic's key of a challenge: the key that it is stored under
}

func (s *issuerStorage) key(k string) string { return path.Join(s.prefix, k) }

func (s *issuerStorage) Store(ctx context.Context, key string, value []byte) error {
	if own := tokenKey(key, value); own != key {
		s.tokens.Store(key, own)
		key = own
	}
	if err := s.Storage.Store(ctx, s.key(key), value); err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	return nil
}

func (s *issuerStorage) Load(ctx context.Context, key string) ([]byte, error) {
	return s.Storage.Load(ctx, s.key(key))
}

// Delete forgets a challenge even where the order has ended with its context,
// which acmez hands on: tokens of orders that took too long would stay for ever.
func (s *issuerStorage) Delete(ctx context.Context, key string) error {
	ctx, cancel := outlive(ctx, farewell)
	defer cancel()
	if own, ok := s.tokens.LoadAndDelete(key); ok {
		key = own.(string)
	}
	return s.Storage.Delete(ctx, s.key(key))
}

func (s *issuerStorage) Exists(ctx context.Context, key string) bool {
	return s.Storage.Exists(ctx, s.key(key))
}

func (s *issuerStorage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	keys, err := s.Storage.List(ctx, s.key(prefix), recursive)
	for i := range keys {
		keys[i] = strings.TrimPrefix(keys[i], s.prefix+"/")
	}
	return keys, err
}

func (s *issuerStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	info, err := s.Storage.Stat(ctx, s.key(key))
	info.Key = key
	return info, err
}

func (s *issuerStorage) Lock(ctx context.Context, name string) error {
	return s.Storage.Lock(ctx, s.prefix+"/"+name)
}

func (s *issuerStorage) Unlock(ctx context.Context, name string) error {
	return s.Storage.Unlock(ctx, s.prefix+"/"+name)
}

// hearing is what a CA said in the headers of an order.
type hearing struct {
	mu    sync.Mutex // protects the following
	after time.Time
}

func (h *hearing) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.after = time.Time{}
}

func (h *hearing) retryAfter() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.after
}

// hear takes the headers of one response. Only those of errors mean the order:
// others say when to look at it again.
func (h *hearing) hear(status int, header http.Header, now time.Time) {
	value := header.Get("Retry-After")
	if status < 400 || value == "" {
		return
	}
	after, err := http.ParseTime(value)
	if seconds, e := strconv.Atoi(value); e == nil && seconds >= 0 {
		after, err = now.Add(time.Duration(min(seconds, 1<<30))*time.Second), nil
	}
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.after = after
}

// listener is a log core that hears the headers of responses, which certmagic
// hands out nowhere but in its log, at level debug.
type listener struct {
	zapcore.Core
	heard *hearing
}

// responseEntry is the message of acmez's log entry for a response.
const responseEntry = "http request"

func (l *listener) Enabled(level zapcore.Level) bool { return true }

func (l *listener) With(fields []zapcore.Field) zapcore.Core {
	return &listener{l.Core.With(fields), l.heard}
}

func (l *listener) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Message == responseEntry {
		return ce.AddCore(e, l)
	}
	return l.Core.Check(e, ce)
}

func (l *listener) Write(e zapcore.Entry, fields []zapcore.Field) error {
	var status int64
	var header http.Header
	for _, f := range fields {
		switch f.Key {
		case "status_code":
			status = f.Integer
		case "response_headers":
			header, _ = f.Interface.(http.Header)
		}
	}
	if header != nil {
		l.heard.hear(int(status), header, e.Time)
	}
	if l.Core.Enabled(e.Level) {
		return l.Core.Write(e, fields)
	}
	return nil
}
