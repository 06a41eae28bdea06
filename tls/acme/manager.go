package acme

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/portico-ingress/portico/router/diag"
)

// Wanted is a certificate that there is to be.
type Wanted struct {
	Owner  string // the namespace that it is for
	Issuer *Issuer
	Names  []string // sorted, canonical
	// Have is a certificate for the names that is served although there is
	// no record of it: one that was handed over. May be nil.
	Have *x509.Certificate
	// Sequence is that of a certificate that we have written where it is
	// wanted, whether or not there is a record of it; 0: there is none.
	Sequence int64
}

// ID is that of its record.
func (w Wanted) ID() string { return ID(w.Owner, w.Issuer.Name, w.Names) }

// record is its record before anything was done for it.
func (w Wanted) record() *Record {
	return &Record{ID: w.ID(), Owner: w.Owner, Names: w.Names, Issuer: w.Issuer.Name}
}

// Step is one thing that was done for a certificate.
type Step struct {
	Reason  string // a constant word: Ordering, Issued, Failed
	Message string
	Failed  bool
}

// The reasons of steps.
const (
	StepOrdering = "CertificateOrdered"
	StepIssued   = "CertificateIssued"
	StepFailed   = "CertificateFailed"
	StepHasty    = "CertificateDueAtOnce"
	StepNewCA    = "CertificateAuthorityAdded"
)

// Options configure a Manager. Storage, Tokens and Log are required.
type Options struct {
	Storage Storage
	Tokens  *Tokens
	Addrs   Addrs
	// Identity names this process in records.
	Identity string
	// InFlight bounds the orders in flight at each issuer, those that its test
	// directory has to issue before, and the questions when to renew, each by
	// itself, so that one that is slow holds up no other; 0: 8. Owners take
	// turns in it.
	InFlight int
	// AskTimeout bounds the question when to renew; 0: 30 s.
	AskTimeout time.Duration
	// Observe is told of each step; may be nil. It must not block.
	Observe func(*Record, Step)
	// Changed is told of each record that was stored; may be nil.
	Changed func(*Record)
	// Roots is told what clients should trust of an issuer that is a CA of our
	// own, each time that it signs; may be nil.
	Roots   func(issuer string, pem []byte)
	Metrics *Metrics // may be nil
	// Draining is closed when no order is to begin any more, since challenges
	// will soon not be answered here; nil: there is no such time.
	Draining <-chan struct{}
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	Log *zap.Logger
}

// Manager gets every wanted certificate, and gets it again in time. One
// process of a cluster runs it. Its methods are safe for concurrent use.
type Manager struct {
	opts Options // const after New
	wake chan struct{}

	mu      sync.Mutex // protects the following
	wanted  map[string]Wanted
	records map[string]*Record // never written: replaced
	busy    map[string]planned
	clients map[string]*client // by issuer; nil unless running
	cache   *certmagic.Cache
	started time.Time
	jumped  time.Time
	swept   time.Time
}

const (
	// look is how often the clock on the wall is looked at: timers do not
	// notice when it is set.
	look = 15 * time.Second
	// jump is by how much it must have moved on its own to have been set.
	jump = 2 * time.Minute
	// maxValidations are the failed validations of a host in an hour.
	maxValidations = 5
	keepUnwanted   = 24 * time.Hour // a record that nobody wants, after its certificate expired
)

// New returns a Manager that wants nothing.
func New(opts Options) *Manager {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.InFlight == 0 {
		opts.InFlight = 8
	}
	if opts.AskTimeout == 0 {
		opts.AskTimeout = 30 * time.Second
	}
	if opts.Observe == nil {
		opts.Observe = func(*Record, Step) {}
	}
	if opts.Changed == nil {
		opts.Changed = func(*Record) {}
	}
	if opts.Roots == nil {
		opts.Roots = func(string, []byte) {}
	}
	if opts.Metrics == nil {
		opts.Metrics = NewMetrics()
	}
	return &Manager{opts: opts, wake: make(chan struct{}, 1), wanted: make(map[string]Wanted), busy: make(map[string]planned)}
}

// Want replaces all that is wanted.
func (m *Manager) Want(list []Wanted) {
	m.mu.Lock()
	m.wanted = make(map[string]Wanted, len(list))
	for _, w := range list {
		if other, twice := m.wanted[w.ID()]; twice {
			w.Have, w.Sequence = sooner(w.Have, other.Have), max(w.Sequence, other.Sequence)
		}
		m.wanted[w.ID()] = w
	}
	m.mu.Unlock()
	m.signal()
}

// sooner returns the certificate that has to be replaced sooner: none is due now.
func sooner(a, b *x509.Certificate) *x509.Certificate {
	if a == nil || b != nil && a.NotAfter.Before(b.NotAfter) {
		return a
	}
	return b
}

// draining reports whether no order is to begin any more.
func (m *Manager) draining() bool {
	select {
	case <-m.opts.Draining: // nil: never
		return true
	default:
		return false
	}
}

func (m *Manager) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Start manages until ctx ends, and returns when no order is in flight. It may
// be called again.
func (m *Manager) Start(ctx context.Context) error {
	if err := m.open(ctx); err != nil {
		return err
	}
	defer m.close()
	var orders sync.WaitGroup
	defer orders.Wait()
	clock := &wallClock{now: m.opts.Now, mono: time.Now}
	for {
		if at, jumped := clock.jumped(); jumped {
			m.opts.Log.Warn("the clock was set; what seems due since then waits", zap.Time("now", at))
			m.mu.Lock()
			m.jumped = at
			if m.started.After(at) {
				m.started = at // said by the clock that was wrong
			}
			m.mu.Unlock()
		}
		m.sweep(ctx)
		next := m.begin(ctx, &orders)
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-m.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// open reads all records, again and again until it can.
func (m *Manager) open(ctx context.Context) error {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		list, err := m.opts.Storage.Records(ctx)
		if err == nil {
			m.reset(list)
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		m.opts.Log.Warn("the records of certificates cannot be read; trying again", zap.Error(err))
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

func (m *Manager) reset(list []*Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = make(map[string]*Record, len(list))
	for _, r := range list {
		m.records[r.ID] = r.finish()
	}
	m.clients = make(map[string]*client)
	m.started, m.jumped = m.opts.Now(), time.Time{}
	// The cache stays empty: certmagic asks for one, and has it maintained.
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) {
			return nil, errors.New("no certificate is managed by certmagic")
		},
		RenewCheckInterval: 24 * time.Hour, OCSPCheckInterval: 24 * time.Hour, Logger: quiet(m.opts.Log),
	})
}

func (m *Manager) close() {
	m.mu.Lock()
	cache := m.cache
	m.cache, m.clients = nil, nil
	m.mu.Unlock()
	if cache != nil {
		cache.Stop()
	}
}

// begin begins what is due, as far as there is room, and returns how long to
// wait for the next.
func (m *Manager) begin(ctx context.Context, orders *sync.WaitGroup) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.clients == nil || m.draining() { // without clients not even the records could be read
		return look
	}
	now := m.opts.Now()
	plan := m.plan(now)
	due := slices.IndexFunc(plan, func(p planned) bool { return p.action.At.After(now) })
	next := look
	if due < 0 {
		due = len(plan)
	} else {
		next = min(plan[due].action.At.Sub(now), look)
	}
	newLanes(plan[:due], m.busy).begin(m.opts.InFlight, func(p planned) bool {
		if m.overlaps(p) {
			return false // each that ends wakes us
		}
		m.busy[p.id] = p
		orders.Go(func() { m.act(ctx, p.wanted, p.action) })
		return true
	})
	return next
}

// overlaps reports whether one of the names is being ordered already: a host has
// one challenge at a time, and the second would take the place of the first.
// Called with mu held.
func (m *Manager) overlaps(p planned) bool {
	if p.action.Kind != PlaceOrder {
		return false
	}
	for _, b := range m.busy {
		if b.action.Kind == PlaceOrder && slices.ContainsFunc(p.wanted.Names, func(name string) bool { return slices.Contains(b.wanted.Names, name) }) {
			return true
		}
	}
	return false
}

// plan returns what to do for everything that is wanted and not busy, in the
// order in which it is due. Called with mu held.
func (m *Manager) plan(now time.Time) []planned {
	failed, held := m.failedValidations(now), m.held(now)
	plan := make([]planned, 0, len(m.wanted))
	for id, w := range m.wanted {
		if _, busy := m.busy[id]; busy {
			continue
		}
		r := m.records[id]
		f := FactsOf(r, w, now)
		f.Started, f.Jumped, f.Limited = m.started, m.jumped, limited(failed, w.Names)
		f.Held = held.Until(w, r)
		plan = append(plan, planned{id, w, Next(f), f.Failures.Last, w.Issuer.Staging != "" && first(r)})
	}
	slices.SortFunc(plan, planned.before)
	return plan
}

// FactsOf are the facts that a record and what is wanted give. r may be nil.
func FactsOf(r *Record, w Wanted, now time.Time) Facts {
	f := Facts{ID: w.ID(), Now: now, Asks: !w.Issuer.Internal()}
	leaf := w.Have
	if r != nil {
		f.Failures, f.Renewal = w.failures(r), r.Renewal
		if own := r.Leaf(); own != nil {
			leaf = own
			f.Issued, f.Hasty = r.Issued, r.Hasty
			f.Asks = f.Asks && r.knownTo(w.Issuer)
		}
	}
	if leaf != nil {
		f.NotBefore, f.NotAfter = leaf.NotBefore, leaf.NotAfter
	}
	return f
}

// failedValidations returns those of the last hour by host, whichever
// certificates it is in. Called with mu held.
func (m *Manager) failedValidations(now time.Time) map[string][]time.Time {
	failed := make(map[string][]time.Time)
	for _, r := range m.records {
		if len(r.Failures.Validations) == 0 {
			continue
		}
		for host, times := range r.Failures.recent(now) {
			failed[host] = append(failed[host], times...)
		}
	}
	return failed
}

// held returns which directories are left alone. Called with mu held.
func (m *Manager) held(now time.Time) *Holds {
	held := new(Holds)
	for _, r := range m.records {
		held.Add(r, now, m.started)
	}
	return held
}

// limited returns until when one of the names has had its failed validations.
func limited(failed map[string][]time.Time, names []string) time.Time {
	var until time.Time
	for _, name := range names {
		if times := failed[name]; len(times) >= maxValidations {
			slices.SortFunc(times, time.Time.Compare)
			until = latest(until, times[len(times)-maxValidations].Add(time.Hour))
		}
	}
	return until
}

// act does one thing for one certificate.
func (m *Manager) act(ctx context.Context, w Wanted, action Action) {
	id := w.ID()
	defer func() {
		m.mu.Lock()
		delete(m.busy, id)
		m.mu.Unlock()
		m.signal()
	}()
	c := m.client(w.Issuer)
	if c == nil {
		return
	}
	if action.Kind == AskRenewal {
		m.ask(ctx, c, w)
		return
	}
	o := &order{m: m, client: c, wanted: w, why: action.Why}
	if err := o.place(ctx); err != nil && ctx.Err() == nil {
		m.opts.Log.Warn("an order could not be placed", zap.Strings("names", w.Names), zap.Error(err))
		m.note(id, err)
	}
}

// note remembers and tells of a failure that could not be stored, so that it is
// not tried again at once.
func (m *Manager) note(id string, err error) {
	m.mu.Lock()
	w, ok := m.wanted[id]
	if !ok {
		m.mu.Unlock()
		return
	}
	r := m.records[id]
	if r == nil {
		r = w.record()
	}
	r = r.clone()
	known, now := w.failures(r), m.opts.Now()
	r.Failures = known
	r.Failures.add(&failure{reason: ReasonStorage, message: diag.OneLine(err.Error(), maxMessage), account: w.Issuer.account(w.Issuer.Directory)}, nil, now)
	if known.RetryAfter.After(now) { // what the CA has said still holds
		r.Failures.Account, r.Failures.RetryAfter, r.Failures.Wide = known.Account, known.RetryAfter, known.Wide
	}
	m.records[id] = r.finish()
	m.mu.Unlock()
	m.opts.Metrics.failed(r.Issuer, ReasonStorage)
	m.opts.Changed(r)
	if r.Failures.Message != known.Message { // it is tried again too soon to tell of each time
		m.opts.Observe(r, Step{Reason: StepFailed, Failed: true, Message: "nothing is ordered: " + r.Failures.Message})
	}
}

func (m *Manager) client(i *Issuer) *client {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.clients == nil {
		return nil
	}
	c := m.clients[i.Name]
	if c == nil {
		c = newClient(i, m.cache, m.opts.Storage, m.opts.Addrs, m.opts.Log)
		m.clients[i.Name] = c
	}
	return c
}

// read returns the record as it is stored now, a new one if there is none.
func (m *Manager) read(ctx context.Context, w Wanted) (*Record, error) {
	r, err := m.opts.Storage.Record(ctx, w.ID())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return w.record(), nil
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errStorage, err)
	}
	return r.clone(), nil
}

// put stores a record and makes it the one that counts.
func (m *Manager) put(ctx context.Context, r *Record) error {
	if err := m.opts.Storage.PutRecord(ctx, r); err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	m.take(r.clone())
	return nil
}

// remember makes a record that is yet to be stored the one that counts.
func (m *Manager) remember(r *Record) {
	r = r.clone().finish()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records != nil {
		m.records[r.ID] = r
	}
}

// forget drops a record that is stored no longer.
func (m *Manager) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, id)
}

// take makes a record that is stored the one that counts.
func (m *Manager) take(r *Record) {
	r.finish()
	m.mu.Lock()
	if m.records != nil {
		m.records[r.ID] = r
	}
	m.mu.Unlock()
	m.opts.Changed(r)
}

// sweep deletes, once an hour, records that nobody wants and that are of no use
// any more: an Ingress that is deleted and made anew finds its certificate.
func (m *Manager) sweep(ctx context.Context) {
	now := m.opts.Now()
	m.mu.Lock()
	if m.clients == nil || now.Sub(m.swept).Abs() < time.Hour {
		m.mu.Unlock()
		return
	}
	first := m.swept.IsZero()
	m.swept = now
	var old []*Record
	for id, r := range m.records {
		if _, ok := m.wanted[id]; !ok && !first && useless(r, now, m.started) {
			old = append(old, r)
		}
	}
	idle := len(m.busy) == 0
	m.mu.Unlock()
	if idle && !first {
		m.forgetTokens(ctx, now)
	}
	for _, r := range old {
		if err := m.opts.Storage.DeleteRecord(ctx, r); err != nil {
			m.opts.Log.Info("an old record of a certificate could not be deleted", zap.Strings("names", r.Names), zap.Error(err))
			continue
		}
		m.mu.Lock()
		delete(m.records, r.ID)
		m.mu.Unlock()
	}
}

// forgetTokens deletes challenges that a process has left behind which died in
// the middle of an order.
func (m *Manager) forgetTokens(ctx context.Context, now time.Time) {
	keys, err := m.opts.Storage.List(ctx, "issuers", true)
	if err != nil {
		return // there are none yet, or the next hour will do
	}
	for _, key := range keys {
		if !IsToken(key) {
			continue
		}
		if info, err := m.opts.Storage.Stat(ctx, key); err != nil || now.Sub(info.Modified) < time.Hour {
			continue
		}
		if err := m.opts.Storage.Delete(ctx, key); err != nil {
			m.opts.Log.Info("an old challenge could not be deleted", zap.String("key", key), zap.Error(err))
		}
	}
}

// useless reports whether nothing is lost with a record: neither a certificate nor
// what a CA that wants to be left alone has said.
func useless(r *Record, now, started time.Time) bool {
	if now.Before(r.Failures.held(now, started)) {
		return false
	}
	if leaf := r.Leaf(); leaf != nil {
		return now.After(leaf.NotAfter.Add(keepUnwanted))
	}
	return now.Sub(r.Failures.Last) > keepUnwanted && (r.Order == nil || now.Sub(r.Order.Since) > keepUnwanted)
}

// wallClock notices when the clock on the wall was set. Owned by Start.
type wallClock struct {
	now      func() time.Time
	mono     func() time.Time
	lastNow  time.Time
	lastMono time.Time
}

func (c *wallClock) jumped() (time.Time, bool) {
	now, mono := c.now().Round(0), c.mono()
	defer func() { c.lastNow, c.lastMono = now, mono }()
	if c.lastNow.IsZero() {
		return now, false
	}
	off := now.Sub(c.lastNow) - mono.Sub(c.lastMono)
	return now, off.Abs() > jump
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
