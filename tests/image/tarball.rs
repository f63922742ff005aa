//! Tar archives written byte by byte, so that they can be wrong in every way; and layouts and archives around them.

use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// An archive under construction.
#[derive(Clone, Default)]
pub struct Tar(Vec<u8>);

/// A header.
#[derive(Clone)]
pub struct Header(pub [u8; 512]);

impl Header {
    /// A ustar header.
    pub fn new(name: &[u8], kind: u8, size: u64) -> Header {
        let mut header = Header([0; 512]);
        header.put(0, &name[..name.len().min(100)]);
        header.octal(100, 8, if kind == b'5' { 0o755 } else { 0o644 });
        header.octal(108, 8, 0);
        header.octal(116, 8, 0);
        header.octal(124, 12, size);
        header.octal(136, 12, 1_600_000_000);
        header.0[156] = kind;
        header.put(257, b"ustar\x0000");
        header
    }

    /// Bytes at a place.
    pub fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Header {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// A number in octal digits.
    pub fn octal(&mut self, at: usize, width: usize, value: u64) -> &mut Header {
        let digits = format!("{value:0width$o}\0", width = width - 1);
        self.put(at, digits.as_bytes())
    }

    /// The target of a link.
    pub fn link(&mut self, target: &[u8]) -> &mut Header {
        self.put(157, target)
    }

    fn sealed(mut self) -> [u8; 512] {
        self.put(148, b"        ");
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

impl Tar {
    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Tar {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A header with its checksum, and data filled up to a block.
    pub fn entry(self, header: &Header, data: &[u8]) -> Tar {
        let fill = vec![0; data.len().wrapping_neg() % 512];
        self.raw(&header.clone().sealed()).raw(data).raw(&fill)
    }

    pub fn file(self, name: &str, data: &[u8]) -> Tar {
        self.entry(&Header::new(name.as_bytes(), b'0', data.len() as u64), data)
    }

    pub fn dir(self, name: &str) -> Tar {
        self.entry(&Header::new(name.as_bytes(), b'5', 0), b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.entry(Header::new(name.as_bytes(), b'2', 0).link(target.as_bytes()), b"")
    }

    pub fn hardlink(self, name: &str, target: &str) -> Tar {
        self.entry(Header::new(name.as_bytes(), b'1', 0).link(target.as_bytes()), b"")
    }

    pub fn device(self, name: &str, kind: u8, major: u64, minor: u64) -> Tar {
        let mut header = Header::new(name.as_bytes(), kind, 0);
        header.octal(329, 8, major).octal(337, 8, minor);
        self.entry(&header, b"")
    }

    /// A PAX header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.entry(&Header::new(b"pax", b'x', data.len() as u64), &data)
    }

    /// A long name of GNU for the next entry.
    pub fn long_name(self, name: &[u8]) -> Tar {
        let data = [name, b"\0"].concat();
        self.entry(&Header::new(b"././@LongLink", b'L', data.len() as u64), &data)
    }

    /// The end of the archive, and its bytes.
    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    /// Its bytes without an end.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// `LENGTH KEY=VALUE\n`.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(data: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(data, 3).unwrap()
}

/// A layer: the blob, and what it holds.
#[derive(Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub tar: Vec<u8>,
}

impl Layer {
    pub fn plain(tar: Vec<u8>) -> Layer {
        Layer { blob: tar.clone(), tar }
    }

    pub fn gzip(tar: Vec<u8>) -> Layer {
        Layer { blob: gzip(&tar), tar }
    }

    pub fn zstd(tar: Vec<u8>) -> Layer {
        Layer { blob: zstd(&tar), tar }
    }
}

pub fn hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A layout in which everything can be replaced before it is written.
pub struct Layout {
    pub dir: PathBuf,
}

impl Layout {
    pub fn new(dir: &Path) -> Layout {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Layout { dir: dir.to_path_buf() }
    }

    /// Writes a blob and returns its digest.
    pub fn blob(&self, data: &[u8]) -> String {
        let hex = hex(data);
        std::fs::write(self.dir.join("blobs/sha256").join(&hex), data).unwrap();
        format!("sha256:{hex}")
    }

    /// The configuration of an image.
    pub fn config(layers: &[Layer]) -> Vec<u8> {
        let diff_ids: Vec<String> =
            layers.iter().map(|layer| format!("sha256:{}", hex(&layer.tar))).collect();
        let config = serde_json::json!({
            "created": "2026-01-02T03:04:05Z", "architecture": "amd64", "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        serde_json::to_vec(&config).unwrap()
    }

    /// Writes an image and returns its descriptor.
    pub fn image(&self, tag: &str, layers: &[Layer]) -> serde_json::Value {
        self.image_with(tag, layers, &Layout::config(layers))
    }

    /// Writes an image with a configuration of its own.
    pub fn image_with(&self, tag: &str, layers: &[Layer], config: &[u8]) -> serde_json::Value {
        let layers: Vec<serde_json::Value> = layers
            .iter()
            .map(|layer| {
                let suffix = match layer.blob.as_slice() {
                    [0x1f, 0x8b, ..] => "+gzip",
                    [0x28, 0xb5, 0x2f, 0xfd, ..] => "+zstd",
                    _ => "",
                };
                serde_json::json!({
                    "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                    "digest": self.blob(&layer.blob), "size": layer.blob.len(),
                })
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": self.blob(config), "size": config.len()},
            "layers": layers,
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": self.blob(&manifest), "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        })
    }

    pub fn index(&self, manifests: &[serde_json::Value]) {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
        std::fs::write(self.dir.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    }
}

/// A layout with one image.
pub fn layout(dir: &Path, tag: &str, layers: &[Layer]) -> PathBuf {
    let layout = Layout::new(dir);
    let image = layout.image(tag, layers);
    layout.index(&[image]);
    dir.to_path_buf()
}
