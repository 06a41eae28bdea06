package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/controllers/certs"
	"github.com/portico-ingress/portico/router/admin"
	"github.com/portico-ingress/portico/tls/acme"
)

// acmeFlags configure who issues the certificates that Ingresses ask for.
type acmeFlags struct {
	IssuersFile string
	Directory   string
	Email       string
	EABKeyID    string
	EABKeyFile  string
	CABundle    string
	Staging     string
	Namespace   string // controller only
	Write       bool   // controller only
	Local       bool   // serve only
	Dir         string // serve only
}

// flagsIssuer is the name of the issuer that flags configure.
const flagsIssuer = "default"

func (f *acmeFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.IssuersFile, "acme-issuers", "", "YAML file of the issuers of certificates (docs/certificates.md); empty: none but that of --acme-directory")
	fs.StringVar(&f.Directory, "acme-directory", "", `URL of an ACME server's directory, for a default issuer "`+flagsIssuer+`"; empty: none`)
	fs.StringVar(&f.Email, "acme-email", "", "with --acme-directory: the account's e-mail address")
	fs.StringVar(&f.EABKeyID, "acme-eab-key-id", "", "with --acme-directory: key ID of an external account binding")
	fs.StringVar(&f.EABKeyFile, "acme-eab-key-file", "", "with --acme-directory: file with its MAC key, in base64url as the CA shows it")
	fs.StringVar(&f.CABundle, "acme-ca-bundle", "", "with --acme-directory: PEM file of CAs that the server's own certificate may be from, besides the system's")
	fs.StringVar(&f.Staging, "acme-staging-directory", "", "with --acme-directory: a test directory that must issue the first certificate of a set of names, before the real one is asked")
}

func (f *acmeFlags) registerCluster(fs *pflag.FlagSet) {
	fs.StringVar(&f.Namespace, "acme-namespace", "portico-acme", "namespace for account keys, certificates and locks, with nothing else in it")
	fs.BoolVar(&f.Write, "acme-write-secrets", true, "write certificates into the Secrets that spec.tls names; false: they are served from --acme-namespace only")
}

func (f *acmeFlags) registerFolder(fs *pflag.FlagSet) {
	fs.BoolVar(&f.Local, "local-ca", true, "issue certificates for hosts below localhost whose Secret is missing")
	fs.StringVar(&f.Dir, "acme-dir", "", "folder for account keys, certificates and CAs of issuers (default: $XDG_STATE_HOME/portico/acme)")
}

// checkNamespace returns why there can be no namespace of that name.
func (f *acmeFlags) checkNamespace() error {
	if len(validation.IsDNS1123Label(f.Namespace)) > 0 {
		return program.FlagError("acme-namespace", fmt.Errorf("%q is not the name of a namespace", f.Namespace))
	}
	return nil
}

// issuers returns what is configured; nil: nothing is.
func (f *acmeFlags) issuers() (*acme.Issuers, error) {
	config := &acme.Config{}
	if f.IssuersFile != "" {
		text, err := os.ReadFile(f.IssuersFile)
		if err != nil {
			return nil, program.FlagError("acme-issuers", err)
		}
		if config, err = acme.ParseConfig(text); err != nil {
			return nil, program.FlagError("acme-issuers", fmt.Errorf("%s: %w", f.IssuersFile, err))
		}
	}
	switch {
	case f.Directory != "":
		in := acme.IssuerConfig{Name: flagsIssuer, Directory: f.Directory, Staging: f.Staging, Email: f.Email, CABundle: f.CABundle}
		in.EAB.KeyID, in.EAB.KeyFile = f.EABKeyID, f.EABKeyFile
		config.Issuers = append(config.Issuers, in)
		if config.Default == "" {
			config.Default = flagsIssuer
		}
	case f.Email+f.EABKeyID+f.EABKeyFile+f.CABundle+f.Staging != "":
		return nil, program.FlagError("acme-directory", errors.New("is missing: e-mail, EAB, CA bundle and staging are of its issuer; those of others are in --acme-issuers"))
	case f.IssuersFile == "":
		return nil, nil
	}
	issuers, err := config.Open()
	if err != nil && f.IssuersFile == "" {
		return nil, program.FlagError("acme-directory", err)
	}
	if err != nil {
		return nil, program.FlagError("acme-issuers", err)
	}
	return issuers, nil
}

// certificates are the parts that get certificates.
type certificates struct {
	issuers *acme.Issuers
	local   *acme.Issuer // for hosts below localhost; nil: there is none
	files   *acme.Files  // nil in a cluster
	release func()       // gives up the folder; nil: it is not held
	passing string       // folder that ends with the process; empty: there is none
	tokens  *acme.Tokens
	metrics *acme.Metrics
}

// certificates returns the parts, nil if there is no issuer.
func (f *acmeFlags) certificates() (*certificates, error) {
	c := &certificates{tokens: acme.NewTokens(nil), metrics: acme.NewMetrics()}
	var err error
	if c.issuers, err = f.issuers(); err != nil {
		return nil, err
	}
	if f.Local {
		c.local = acme.Local()
		if c.issuers, err = c.issuers.With(c.local); err != nil {
			return nil, program.FlagError("acme-issuers", fmt.Errorf("%w, or give --local-ca=false", err))
		}
	}
	if c.issuers == nil {
		return nil, nil
	}
	acme.IdentifyAs("portico", program.Version())
	return c, nil
}

// announce says which issuers are configured.
func (c *certificates) announce(log logr.Logger) {
	for _, name := range c.issuers.Names() {
		issuer, _ := c.issuers.Get(name)
		if issuer == c.local { // nobody has configured it
			continue
		}
		log.Info("issuer", "name", name, "directory", cmp.Or(issuer.Directory, "none: a CA of our own"), "default", issuer == c.issuers.Default)
	}
}

// inCluster adds them to a manager.
func (c *certificates) inCluster(mgr manager.Manager, f *acmeFlags, p *plane, r *routing, log logr.Logger) (*certs.Cluster, error) {
	c.announce(log)
	o := certs.ClusterOptions{
		Issuers: c.issuers, Tokens: c.tokens, Addrs: p.sockets.challengeAddrs(), Namespace: f.Namespace, Translate: r.translate,
		Publisher: p.publisher, Certs: p.certs, Metrics: c.metrics, Draining: p.drain.leaving, Zap: zapOf(log), Log: log,
	}
	if !f.Write {
		o.Unwritten = "writing of Secrets is switched off (--acme-write-secrets, chart: acme.secrets)"
	}
	cluster, err := certs.New(mgr, o)
	if err != nil {
		return nil, err
	}
	p.showCertificates(c, cluster.Controller)
	return cluster, nil
}

// inFolder makes them for a machine of its own, with the files that open opened.
func (c *certificates) inFolder(ctx context.Context, p *plane, log logr.Logger) (*certs.Controller, error) {
	c.announce(log)
	keep := func(issuer string, roots []byte) {
		if err := c.files.KeepRoots(issuer, roots); err != nil {
			log.Error(err, "the CA of an issuer could not be put where clients find it", "issuer", issuer)
		}
	}
	for _, name := range c.issuers.Names() {
		issuer, _ := c.issuers.Get(name)
		if !issuer.Internal() {
			continue
		}
		roots, err := acme.Roots(ctx, c.files, issuer, time.Now())
		if err != nil {
			return nil, fmt.Errorf("%w; it lies in folder %s", err, filepath.Dir(c.files.RootsFile(name)))
		}
		keep(name, roots)
	}
	ctl := certs.NewController(certs.Options{
		Issuers: c.issuers, Local: c.local, Storage: c.files, Tokens: c.tokens, Addrs: p.sockets.challengeAddrs(), Identity: "folder", Roots: keep,
		Publisher: p.publisher, Certs: p.certs, Metrics: c.metrics, Draining: p.drain.leaving, Zap: zapOf(log), Log: log,
	})
	p.showCertificates(c, ctl)
	return ctl, ctl.Load(ctx)
}

// open opens the storage, in a folder that ends with the process if only the local
// issuer would use it and there is no lasting one. It reports false if there is
// no place at all, and only that issuer.
func (c *certificates) open(f *acmeFlags, log logr.Logger) (bool, error) {
	dir, err := f.dir()
	if err == nil {
		if c.files, err = acme.NewFiles(dir, c.tokens); err != nil {
			err = program.FlagError("acme-dir", err)
		}
	}
	if err == nil && c.orders() {
		if c.release, err = c.files.Alone(); err != nil {
			return false, program.FlagError("acme-dir", err)
		}
	}
	if err == nil || f.Dir != "" || errors.Is(err, acme.ErrExposed) || c.local == nil || len(c.issuers.Names()) > 1 {
		return err == nil, err
	}
	why := err
	if c.passing, err = os.MkdirTemp("", "portico-"); err != nil {
		log.Info("there is no CA of localhost; --acme-dir names a folder for it", "reason", errors.Join(why, err).Error())
		return false, nil
	}
	log.Info("the CA of localhost ends with this process; --acme-dir names a lasting folder for it", "reason", why.Error())
	c.files, err = acme.NewFiles(c.passing, c.tokens)
	return err == nil, err
}

// orders reports whether there is an ACME server to order from.
func (c *certificates) orders() bool {
	return slices.ContainsFunc(c.issuers.Names(), func(name string) bool {
		issuer, _ := c.issuers.Get(name)
		return !issuer.Internal()
	})
}

// close removes what is to end with the process.
func (c *certificates) close() {
	if c == nil {
		return
	}
	if c.release != nil {
		c.release()
	}
	if c.passing != "" {
		_ = os.RemoveAll(c.passing)
	}
}

func (f *acmeFlags) dir() (string, error) {
	if f.Dir != "" {
		return f.Dir, nil
	}
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("%w; give --acme-dir", err)
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "portico", "acme"), nil
}

// alone runs a Controller where nobody is elected.
type alone struct{ *certs.Controller }

// Start plans, orders and serves until ctx ends.
func (a alone) Start(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Controller.Start(ctx) })
	group.Go(func() error { a.Lead(ctx); return nil })
	return group.Wait()
}

// showCertificates has the admin pages show what is managed.
func (p *plane) showCertificates(c *certificates, ctl *certs.Controller) {
	p.metrics.Register(c.metrics)
	p.managed = func() []admin.ManagedCertificate {
		list := ctl.Managed()
		out := make([]admin.ManagedCertificate, len(list))
		for i, m := range list {
			out[i] = admin.ManagedCertificate{
				Ingress: m.Ingress, Field: m.Field, Secret: m.Secret.String(), Names: m.Names, Issuer: m.Issuer, Refused: m.Refused, Reason: string(m.Reason), NotManaged: m.NotManaged,
				Serial: m.Serial, NotAfter: m.NotAfter, Ordered: m.Ordered, Next: m.Next, NextWhy: m.NextWhy, Renewal: m.Renewal, RenewalWhy: m.RenewalWhy,
				Failures: m.Failures, LastError: m.LastError, LastErrorAt: m.LastErrorAt, Unwritten: m.Unwritten,
			}
		}
		return out
	}
}

// zapOf returns the core that a logger of program.LogFlags.New sits on.
func zapOf(log logr.Logger) *zap.Logger {
	if under, ok := log.GetSink().(zapr.Underlier); ok {
		return under.GetUnderlying()
	}
	return zap.NewNop()
}

// challengeAddrs are the listeners that answer challenges.
func (s *sockets) challengeAddrs() acme.Addrs {
	address := func(ln net.Listener) string {
		if ln == nil {
			return ""
		}
		return ln.Addr().String()
	}
	return acme.Addrs{HTTP: address(s.http), HTTPS: address(s.https)}
}
