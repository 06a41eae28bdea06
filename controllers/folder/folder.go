// Package folder is the source for running without a cluster: it serves the
// manifests in a folder and follows their changes. It hands over what the
// cluster's controllers would, so everything behind it is the same.
//
// As long as a manifest has a fault, the last good table keeps being served.
package folder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/go-logr/logr"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/controllers/manifest"
	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/tls/certstore"
)

// ReasonManifest is the reason of a problem that is a fault in a manifest.
const ReasonManifest diag.Reason = "ManifestFault"

// DefaultPoll is how often the files are looked at, whether or not the file
// system told of a change.
const DefaultPoll = 500 * time.Millisecond

// settleTime is longer than a publisher gathers changes.
const settleTime = 3 * publish.DefaultInterval

// Options configure a Source. Paths, Publisher, Registry and Certs are
// required.
type Options struct {
	// Paths are files, folders, and "-" for standard input.
	Paths []string
	// Stdin is read once if Paths has "-". Default: os.Stdin.
	Stdin     io.Reader
	Translate translate.Options
	// Pools are wanted besides those that Ingresses lead to.
	Pools     []upstream.Key
	Publisher *publish.Publisher
	Registry  *upstream.Registry
	Certs     *certstore.Store
	// Observer is told of every load; may be nil.
	Observer CertificateObserver
	// Report is where faults and problems are told to the user, each once.
	// Default: os.Stderr.
	Report io.Writer
	Log    logr.Logger
	// Poll is how often the files are looked at. Default: DefaultPoll.
	Poll time.Duration
}

// CertificateObserver learns which certificates the manifests ask for.
type CertificateObserver interface {
	// Replace takes the Ingresses that are served, and what the Secrets among
	// the manifests hold; nil: nothing of use. It must write to neither.
	Replace(ingresses []*networkingv1.Ingress, secrets map[certstore.SecretRef]*certstore.Certificate)
}

// Source serves manifests. All its state belongs to the goroutine of Start.
type Source struct {
	opts   Options
	stdin  []byte
	report *reporter
	loaded stamp
	// good is what was handed over last; nil before the first time.
	good     *loadedSet
	clean    bool      // a load was without fault
	reported time.Time // when problems were last looked for
	// awaited are the problems that are certificates yet to come, since when.
	awaited map[diag.Problem]time.Time
	// credentials are what Registry has.
	credentials map[upstream.SecretRef]*upstream.Credentials
}

// loadedSet is one load that was handed over.
type loadedSet struct {
	set   *manifest.Set
	world *translate.World
}

// New returns a Source that has read nothing yet.
func New(opts Options) *Source {
	if opts.Stdin == nil {
		opts.Stdin = os.Stdin
	}
	if opts.Report == nil {
		opts.Report = os.Stderr
	}
	if opts.Poll == 0 {
		opts.Poll = DefaultPoll
	}
	opts.Translate.Folder = true
	return &Source{opts: opts, report: newReporter(opts.Report)}
}

// Start serves the manifests and follows their changes until ctx is done. It
// fails at once if a path does not exist; whatever is wrong later is reported.
func (s *Source) Start(ctx context.Context) error {
	if err := s.checkPaths(); err != nil {
		return err
	}
	if err := s.readStdin(ctx); err != nil {
		return err
	}
	w := newWatcher(s.opts.Paths, s.opts.Log)
	defer w.close()
	changed := s.opts.Publisher.Changed()
	s.load(w)
	poll := time.NewTicker(s.opts.Poll)
	defer poll.Stop()
	// Problems are told, and pools forgotten, when the picture has settled:
	// between the hand-over of certificates and the publish of the table there
	// are two of them.
	settled := time.NewTimer(settleTime)
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			changed = s.opts.Publisher.Changed()
			settled.Reset(settleTime)
			continue
		case <-settled.C:
			s.forgetPools()
			if s.reportProblems() {
				settled.Reset(settleTime)
			}
			continue
		case event := <-w.hints():
			if !isNews(event) {
				continue
			}
		case err := <-w.errors():
			s.opts.Log.V(1).Info("notifications from the file system were lost", "reason", err.Error())
		case <-poll.C:
			if time.Since(s.reported) >= lookAgain*s.opts.Poll { // that a certificate ends is no event
				s.reported = time.Now()
				settled.Reset(settleTime)
			}
		}
		if look(s.opts.Paths) != s.loaded && settle(ctx, s.opts.Paths) {
			s.load(w)
		}
	}
}

// NeedLeaderElection tells controller-runtime that this needs no leader.
func (*Source) NeedLeaderElection() bool { return false }

func (s *Source) checkPaths() error {
	var errs []error
	for _, path := range s.opts.Paths {
		if path == manifest.Stdin {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			errs = append(errs, fmt.Errorf("manifests: %w", err))
		}
	}
	return errors.Join(errs...)
}

// readStdin reads standard input to its end. The reader goroutine outlives a
// cancelled context: a read from a terminal cannot be interrupted.
func (s *Source) readStdin(ctx context.Context) error {
	if !slices.Contains(s.opts.Paths, manifest.Stdin) {
		return nil
	}
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := io.ReadAll(s.opts.Stdin)
		done <- result{text, err}
	}()
	select {
	case <-ctx.Done():
		return nil
	case r := <-done:
		s.stdin = r.text
		return r.err
	}
}

// load reads everything and hands it over, unless there is a fault and
// something good is being served.
func (s *Source) load(w *watcher) {
	w.follow(s.opts.Paths)
	s.loaded = look(s.opts.Paths)
	set, faults := manifest.LoadFrom(bytes.NewReader(s.stdin), s.opts.Paths...)
	// Until a load was without fault there is no last good table to keep: the
	// usable rest of each is served.
	keep := len(faults) > 0 && s.clean
	s.clean = s.clean || len(faults) == 0
	s.report.faults(faults, keep)
	s.opts.Publisher.SetProblems("manifests", problems(faults))
	if keep {
		return
	}
	world := translate.All(s.opts.Translate, objects(set), s.opts.Pools...)
	s.good = &loadedSet{set: set, world: world}
	s.report.notices(set, world)
	s.observe(set, world)
	s.handOver(world)
	s.opts.Log.V(1).Info("loaded manifests", "files", len(set.Files), "objects", set.Len(), "ingresses", len(world.Entries))
}

// observe tells of the Ingresses and Secrets among the manifests.
func (s *Source) observe(set *manifest.Set, world *translate.World) {
	if s.opts.Observer == nil {
		return
	}
	secrets := maps.Clone(world.Certificates)
	for ref := range world.SecretProblems {
		secrets[ref] = nil
	}
	s.opts.Observer.Replace(translate.NewClasses(s.opts.Translate, set.Classes).Only(set.Ingresses), secrets)
}

// objects returns a set as translation wants it.
func objects(set *manifest.Set) *translate.Objects {
	return &translate.Objects{
		Ingresses: set.Ingresses, Classes: set.Classes, Services: set.Services,
		Slices: set.Slices, Endpoints: set.Endpoints, Secrets: set.Secrets,
	}
}

// handOver gives everybody their part. Endpoints and certificates go first, so
// that a table never leads to a pool that is not known yet.
func (s *Source) handOver(world *translate.World) {
	for key, state := range world.Pools {
		if !reflect.DeepEqual(s.opts.Registry.Pool(key).State(), state) {
			s.opts.Registry.Set(key, state)
		}
	}
	s.opts.Certs.ReplaceSecrets(world.Certificates, world.SecretProblems)
	s.setCredentials(world)
	entries := make([]publish.Entry, len(world.Entries))
	for i, e := range world.Entries {
		entries[i] = publish.Entry(e)
	}
	s.opts.Publisher.Replace(entries)
	s.opts.Publisher.SetProblems("objects", world.Problems)
	s.opts.Publisher.Release()
}

// forgetPools drops the pools that neither the newest picture nor the served
// table leads to. It runs when the table has followed the picture.
func (s *Source) forgetPools() {
	snap := s.opts.Publisher.Snapshot()
	if s.good == nil || snap == nil {
		return
	}
	keep := make(map[upstream.Key]struct{}, len(s.good.world.Pools))
	for key := range s.good.world.Pools {
		keep[key] = struct{}{}
	}
	for _, b := range snap.Table.Backends() {
		keep[upstream.Key(b)] = struct{}{}
	}
	s.opts.Registry.Retain(keep)
}

// setCredentials hands over what Secrets hold for backends, and takes back what
// is gone.
func (s *Source) setCredentials(world *translate.World) {
	for ref := range s.credentials {
		if world.Credentials[ref] == nil {
			s.opts.Registry.SetCredentials(ref, nil)
		}
	}
	for ref, c := range world.Credentials {
		if s.credentials[ref] == nil || !c.Equal(s.credentials[ref]) {
			s.opts.Registry.SetCredentials(ref, c)
			continue
		}
		world.Credentials[ref] = s.credentials[ref] // the one that connections are known by
	}
	s.credentials = world.Credentials
}

// forbearance is how long a certificate may be awaited before the user is told: one
// from a CA of our own takes a moment.
const forbearance = 5 * time.Second

// lookAgain is after how many looks at the files problems are looked for although
// nothing changed.
const lookAgain = 20

// reportProblems tells the user what is wrong. It reports true where something is
// left out that should be looked at again.
func (s *Source) reportProblems() (again bool) {
	s.reported = time.Now()
	if s.good == nil || s.opts.Publisher.Snapshot() == nil {
		return false
	}
	problems, awaited, now := s.opts.Publisher.Problems(), make(map[diag.Problem]time.Time), time.Now()
	problems = slices.DeleteFunc(problems, func(p diag.Problem) bool {
		if p.Reason != certstore.ReasonPending {
			return false
		}
		key := p
		key.Message = "" // how it is getting on
		since, ok := s.awaited[key]
		if !ok {
			since = now
		}
		awaited[key] = since
		return now.Sub(since) < forbearance
	})
	s.awaited = awaited
	s.report.problems(s.good.set, problems)
	return slices.ContainsFunc(slices.Collect(maps.Values(awaited)), func(since time.Time) bool { return now.Sub(since) < forbearance })
}

// problems returns faults in the form of the problem pages.
func problems(faults []manifest.Fault) []diag.Problem {
	out := make([]diag.Problem, len(faults))
	for i, f := range faults {
		where := f.File
		if f.Line > 0 {
			where = fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		out[i] = diag.Problem{Object: f.Object, Field: f.Field, Reason: ReasonManifest, Message: where + ": " + f.Message, Remedy: f.Remedy}
		if f.Object == (diag.Ref{}) {
			out[i].Object = diag.Ref{Kind: "File", Name: f.File}
		}
	}
	return out
}
