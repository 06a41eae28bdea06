//go:build linux

package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// An authority issues every certificate of a cluster. It lives as long as the
// program: a cluster makes all its certificates when it starts.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// validity of certificates. A cluster does not live as long.
const validity = 365 * 24 * time.Hour

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := unsigned(pkix.Name{CommonName: "portico test cluster"})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert, key, encode("CERTIFICATE", der)}, nil
}

// unsigned is a certificate to be filled in.
func unsigned(subject pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity)}
}

// issue returns a certificate for a client and, if it has names, for a server.
func (a *authority) issue(subject pkix.Name, names []string, addresses []netip.Addr) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := unsigned(subject)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(names) > 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	t.DNSNames = names
	for _, address := range addresses {
		t.IPAddresses = append(t.IPAddresses, net.IP(address.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, private.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	key, err = encodeKey(private)
	return encode("CERTIFICATE", der), key, err
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// encodeKey encodes as SEC 1, which every program of a cluster reads.
func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return encode("EC PRIVATE KEY", der), err
}

// pki is the folder with a cluster's keys, certificates and kubeconfigs.
type pki struct{ dir string }

func (p pki) File(name string) string       { return filepath.Join(p.dir, name) }
func (p pki) Kubeconfig(user string) string { return p.File(user + ".kubeconfig") }

// users are the clients of kube-apiserver, and who it takes them for. The
// users of nodes come on top.
var users = map[string]pkix.Name{
	"admin":                   {CommonName: "admin", Organization: []string{"system:masters"}},
	"kube-controller-manager": {CommonName: "system:kube-controller-manager"},
	"kube-scheduler":          {CommonName: "system:kube-scheduler"},
	"kube-proxy":              {CommonName: "system:kube-proxy"},
}

// frontProxy is who kube-apiserver is to extension apiservers, which believe it
// about users.
const frontProxy = "front-proxy-client"

// apiNames are what kube-apiserver is called in pods.
var apiNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}

// writePKI writes everything.
func (c *Cluster) writePKI() error {
	if err := os.MkdirAll(c.pki.dir, 0o700); err != nil {
		return err
	}
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	if err := c.pki.write(map[string][]byte{"ca.crt": ca.pem, "ca.key": caKey}); err != nil {
		return err
	}
	addresses := []netip.Addr{c.net.control(), netip.MustParseAddr(apiAddress), netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if err := c.pki.pair(ca, "kube-apiserver", pkix.Name{CommonName: "kube-apiserver"}, apiNames, addresses); err != nil {
		return err
	}
	kubelets := pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}}
	if err := c.pki.pair(ca, "kubelet-client", kubelets, nil, nil); err != nil {
		return err
	}
	if err := c.pki.pair(ca, frontProxy, pkix.Name{CommonName: frontProxy}, nil, nil); err != nil {
		return err
	}
	for user, subject := range users {
		if err := c.writeUser(ca, user, subject, nil, nil); err != nil {
			return err
		}
	}
	for _, node := range c.nodes {
		subject := pkix.Name{CommonName: "system:node:" + node.Name, Organization: []string{"system:nodes"}}
		if err := c.writeUser(ca, node.Name, subject, []string{node.Name}, []netip.Addr{node.Address}); err != nil {
			return err
		}
	}
	return c.pki.writeServiceAccountKey()
}

// writeServiceAccountKey writes the key that signs the tokens of pods.
func (p pki) writeServiceAccountKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := encodeKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return p.write(map[string][]byte{"service-account.key": private, "service-account.pub": encode("PUBLIC KEY", public)})
}

// pair writes NAME.crt and NAME.key.
func (p pki) pair(ca *authority, name string, subject pkix.Name, names []string, addresses []netip.Addr) error {
	cert, key, err := ca.issue(subject, names, addresses)
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", name, err)
	}
	return p.write(map[string][]byte{name + ".crt": cert, name + ".key": key})
}

// writeUser writes a certificate, and a kubeconfig that has it in it.
func (c *Cluster) writeUser(ca *authority, user string, subject pkix.Name, names []string, addresses []netip.Addr) error {
	cert, key, err := ca.issue(subject, names, addresses)
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", user, err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["portico"] = &clientcmdapi.Cluster{Server: c.api(), CertificateAuthorityData: ca.pem}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts["portico"] = &clientcmdapi.Context{Cluster: "portico", AuthInfo: user}
	config.CurrentContext = "portico"
	if err := clientcmd.WriteToFile(*config, c.pki.Kubeconfig(user)); err != nil {
		return err
	}
	return c.pki.write(map[string][]byte{user + ".crt": cert, user + ".key": key})
}

func (p pki) write(files map[string][]byte) error {
	for name, content := range files {
		if err := os.WriteFile(p.File(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
