package acme

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
)

// patience is how long a test waits for what is to happen.
const patience = time.Minute

// office is a running Manager with files, and what it told.
type office struct {
	*Manager
	t       *testing.T
	storage Storage

	mu      sync.Mutex // protects the following
	steps   []string   // reason, names, message
	records map[string]*Record
	news    chan struct{}
}

func newOffice(t *testing.T, change ...func(*Options)) *office {
	t.Helper()
	o := &office{t: t, records: make(map[string]*Record), news: make(chan struct{})}
	opts := Options{Storage: newFiles(t, t.TempDir()), Tokens: NewTokens(nil), Identity: "test", Log: zap.NewNop(),
		Addrs: Addrs{HTTP: "127.0.0.1:80", HTTPS: "127.0.0.1:443"}, Observe: o.observe, Changed: o.changed}
	for _, f := range change {
		f(&opts)
	}
	o.storage, o.Manager = opts.Storage, New(opts)
	return o
}

// run has the Manager work until the test ends or stop is called.
func (o *office) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := o.Start(ctx); err != nil {
			o.t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	o.t.Cleanup(stop)
	return stop
}

func (o *office) observe(r *Record, s Step) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.steps = append(o.steps, s.Reason+" "+strings.Join(r.Names, ",")+": "+s.Message)
	o.tell()
}

func (o *office) changed(r *Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.records[r.ID] = r
	o.tell()
}

func (o *office) tell() {
	close(o.news)
	o.news = make(chan struct{})
}

// count returns how many steps begin with a text.
func (o *office) count(text string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, s := range o.steps {
		if strings.HasPrefix(s, text) {
			n++
		}
	}
	return n
}

// record returns what was last told of something wanted, nil if nothing was.
func (o *office) record(w Wanted) *Record {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.records[w.ID()]
}

// until waits for a condition, which is asked after each news.
func (o *office) until(what string, condition func() bool) {
	o.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		o.mu.Lock()
		news := o.news
		o.mu.Unlock()
		if condition() {
			return
		}
		select {
		case <-news:
		case <-time.After(50 * time.Millisecond): // not all is told
		case <-deadline.C:
			o.mu.Lock()
			defer o.mu.Unlock()
			o.t.Fatalf("still not: %s; steps:\n%s", what, strings.Join(o.steps, "\n"))
		}
	}
}

func (o *office) issued(w Wanted) func() bool {
	return func() bool { r := o.record(w); return r != nil && r.Leaf() != nil }
}

// server is an ACME server of which only the directory is ever asked.
func server(t *testing.T, name string, answer http.HandlerFunc) *Issuer {
	t.Helper()
	s := httptest.NewTLSServer(answer)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	i := ownIssuer(name)
	i.Directory, i.Challenges = s.URL+"/dir", []string{HTTP01}
	i.Roots = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	return i
}

func ownIssuer(name string) *Issuer {
	return &Issuer{Name: name, KeyType: DefaultKeyType, Lifetime: 30 * day, Timeout: time.Minute}
}

func want(i *Issuer, names ...string) Wanted {
	slices.Sort(names)
	return Wanted{Owner: "shop", Issuer: i, Names: names}
}

// silence answers no request before the test ends.
func silence(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// TestSlowIssuer: an issuer that does not answer holds up nobody else's orders.
func TestSlowIssuer(t *testing.T) {
	slow, own := server(t, "slow", silence), ownIssuer("own")
	o := newOffice(t, func(o *Options) { o.InFlight = 2 })
	stop := o.run()
	defer stop()
	waiting := []Wanted{want(slow, "a.example"), want(slow, "b.example"), want(slow, "c.example")}
	o.Want(waiting)
	o.until("two are in flight", func() bool { return o.count(StepOrdering) == 2 })
	other := want(own, "d.example")
	o.Want(append(waiting, other))
	o.until("the other's certificate", o.issued(other))
	if n := o.count(StepOrdering); n != 3 {
		t.Errorf("%d orders, with two of one issuer at a time", n)
	}
}

// TestSilentAboutRenewal: a CA that does not say when to renew is asked again
// later, and its certificate's order does not wait for that.
func TestSilentAboutRenewal(t *testing.T) {
	slow := server(t, "slow", silence)
	o := newOffice(t, func(o *Options) { o.AskTimeout = 50 * time.Millisecond; o.InFlight = 1 })
	ca, err := newCA(ownIssuer("own"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w := want(slow, "a.example")
	chain, err := ca.issue(&x509.CertificateRequest{DNSNames: w.Names, PublicKey: ca.key.Public()}, 30*time.Second, time.Now()) // it asks within half a second
	if err != nil {
		t.Fatal(err)
	}
	w.Have = (&Record{Chain: chain}).Leaf()
	o.run()
	o.Want([]Wanted{w})
	o.until("it was given up", func() bool { r := o.record(w); return r != nil && r.Renewal != nil })
	if s := o.record(w).Renewal; !s.At.IsZero() || s.Next.IsZero() {
		t.Errorf("without an answer: %+v", s)
	}
}

// guarded is a Storage whose calls may be held up or refused.
type guarded struct {
	Storage
	hold   func()                               // before a lock is taken
	put    func(context.Context, *Record) error // before a record is stored
	remove func(context.Context, string) error  // before a value is deleted
}

func (g *guarded) Hold(ctx context.Context, name string) (context.Context, func(), error) {
	if g.hold != nil {
		g.hold()
	}
	return g.Storage.Hold(ctx, name)
}

func (g *guarded) PutRecord(ctx context.Context, r *Record) error {
	if g.put != nil {
		if err := g.put(ctx, r); err != nil {
			return err
		}
	}
	return g.Storage.PutRecord(ctx, r)
}

func (g *guarded) Delete(ctx context.Context, key string) error {
	if g.remove != nil {
		if err := g.remove(ctx, key); err != nil {
			return err
		}
	}
	return g.Storage.Delete(ctx, key)
}

// TestIssuedAtTheEnd: a certificate that comes while the process ends is stored.
func TestIssuedAtTheEnd(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(begun); <-ended })
	storage := &guarded{Storage: newFiles(t, t.TempDir()), put: func(ctx context.Context, r *Record) error {
		if len(r.Chain) > 0 {
			once()
		}
		return ctx.Err()
	}}
	o := newOffice(t, func(o *Options) { o.Storage = storage })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- o.Start(ctx) }()
	w := want(ownIssuer("own"), "a.example")
	o.Want([]Wanted{w})
	<-begun
	cancel()
	close(ended)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if r, err := storage.Record(t.Context(), w.ID()); err != nil || r.Leaf() == nil || r.Order != nil {
		t.Errorf("the certificate is lost: %+v, %v", r, err)
	}
}

// TestUnwantedMeanwhile: what nobody wants any more when its turn has come is not
// ordered.
func TestUnwantedMeanwhile(t *testing.T) {
	waits, unwanted := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	storage := &guarded{Storage: newFiles(t, t.TempDir()), hold: func() {
		if held.CompareAndSwap(false, true) {
			close(waits)
			<-unwanted
		}
	}}
	o := newOffice(t, func(o *Options) { o.Storage = storage })
	stop := o.run()
	w, other := want(ownIssuer("own"), "a.example"), want(ownIssuer("own"), "b.example")
	o.Want([]Wanted{w})
	<-waits
	o.Want([]Wanted{other})
	close(unwanted)
	o.until("another certificate", o.issued(other))
	o.until("nothing is in flight", func() bool {
		o.Manager.mu.Lock()
		defer o.Manager.mu.Unlock()
		return len(o.busy) == 0
	})
	stop()
	if r, err := storage.Record(t.Context(), w.ID()); err == nil || o.count(StepOrdering+" a.example") > 0 {
		t.Errorf("it was ordered: %+v", r)
	}
}

// TestWantedTwice: one certificate for two who want it is ordered when the first
// of them needs it, in whatever order they come.
func TestWantedTwice(t *testing.T) {
	ca, err := newCA(ownIssuer("own"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.issue(&x509.CertificateRequest{DNSNames: []string{"a.example"}, PublicKey: ca.key.Public()}, 30*day, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, first := range []bool{true, false} {
		o := newOffice(t)
		o.run()
		has, hasNot := want(ownIssuer("own"), "a.example"), want(ownIssuer("own"), "a.example")
		has.Have = (&Record{Chain: chain}).Leaf()
		list := []Wanted{has, hasNot}
		if first {
			list = []Wanted{hasNot, has}
		}
		o.Want(list)
		o.until("the certificate", o.issued(has))
	}
}

// TestDraining: a process that ends begins no order.
func TestDraining(t *testing.T) {
	draining := make(chan struct{})
	o := newOffice(t, func(o *Options) { o.Draining = draining })
	o.reset(nil)
	defer o.close()
	o.Want([]Wanted{want(ownIssuer("own"), "a.example")})
	close(draining)
	var orders sync.WaitGroup
	o.begin(t.Context(), &orders)
	orders.Wait()
	if n := o.count(""); n != 0 {
		t.Errorf("%d steps", n)
	}
}

// TestTokensGo: challenges are deleted although their order has ended, and those
// of a process that died in time.
func TestTokensGo(t *testing.T) {
	files := newFiles(t, t.TempDir())
	storage := &issuerStorage{Storage: &guarded{Storage: files, remove: func(ctx context.Context, _ string) error { return ctx.Err() }}, prefix: "issuers/own"}
	for _, host := range []string{"a", "b"} {
		if err := storage.Store(t.Context(), "acme/ca/challenge_tokens/"+host+".json", []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := storage.Delete(ended, "acme/ca/challenge_tokens/a.json"); err != nil {
		t.Error(err)
	}
	var ahead time.Duration
	o := newOffice(t, func(o *Options) { o.Storage = files; o.Now = func() time.Time { return time.Now().Add(ahead) } })
	o.reset(nil)
	defer o.close()
	for _, c := range []struct {
		ahead time.Duration
		left  int
	}{{0, 1}, {30 * time.Minute, 1}, {2 * time.Hour, 0}} {
		ahead = c.ahead
		o.sweep(t.Context())
		if keys, err := files.List(t.Context(), "issuers", true); countTokens(keys) != c.left {
			t.Errorf("%v later there are %v, %v", c.ahead, keys, err)
		}
	}
}

func countTokens(keys []string) int {
	n := 0
	for _, k := range keys {
		if IsToken(k) {
			n++
		}
	}
	return n
}

// TestToldOnce: a state is told once, and once an hour as long as it lasts.
func TestToldOnce(t *testing.T) {
	now := begun
	o := newOffice(t, func(o *Options) { o.Now = func() time.Time { return now } })
	o.reset(nil)
	defer o.close()
	w := want(ownIssuer("own"), "a.example")
	r, try := w.record(), &order{m: o.Manager, wanted: w}
	fail := func(times int, every time.Duration, reason Reason) {
		for range times {
			now = now.Add(every)
			try.tell(r, Step{Reason: StepOrdering})
			if err := try.failed(t.Context(), r, &failure{reason: reason, message: now.String()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		times         int
		every         time.Duration
		reason        Reason
		order, failed int // told so far
	}{
		{1, time.Minute, ReasonUnavailable, 1, 1},
		{50, time.Minute, ReasonUnavailable, 1, 1},
		{20, time.Minute, ReasonUnavailable, 2, 2},
		{1, time.Minute, ReasonValidation, 2, 3},
		{3, 2 * time.Hour, ReasonValidation, 5, 6},
	} {
		fail(c.times, c.every, c.reason)
		if ordered, failed := o.count(StepOrdering), o.count(StepFailed); ordered != c.order || failed != c.failed {
			t.Errorf("%v: %d orders and %d failures told, want %d and %d", c, ordered, failed, c.order, c.failed)
		}
	}
	if !strings.Contains(o.steps[3], "so since 2026-03-01T00:01:00Z, 61 attempts") {
		t.Errorf("%s", strings.Join(o.steps, "\n"))
	}
}

// TestClockIsSet: a clock that jumps makes no order, and neither does setting it
// right; who has no certificate gets one all the same.
func TestClockIsSet(t *testing.T) {
	var ahead atomic.Int64
	o := newOffice(t, func(o *Options) { o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } })
	o.run()
	own := ownIssuer("own")
	var list []Wanted
	next := func(host string) {
		list = append(list, want(own, host))
		o.Want(list)
		o.until("a certificate for "+host, o.issued(list[len(list)-1]))
	}
	next("a.example")
	for n, jumped := range []time.Duration{25 * day, 0, 28 * day, 0} {
		ahead.Store(int64(jumped))
		next(fmt.Sprintf("b%d.example", n))
		o.until("the jump is noticed", func() bool {
			o.Manager.mu.Lock()
			defer o.Manager.mu.Unlock()
			return o.jumped.Sub(o.opts.Now()).Abs() < time.Hour
		})
	}
	next("c.example")
	for _, w := range list {
		if n := o.count(StepOrdering + " " + w.Names[0]); n != 1 {
			t.Errorf("%d orders for %s", n, w.Names[0])
		}
	}
}
