// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes the archive that the kernel unpacks as its initramfs (the "newc" format of the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::io::{self, Write};

/// An archive in the making.
pub struct Cpio<W> {
    out: W,
    inode: u32,
}

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

impl<W: Write> Cpio<W> {
    /// Starts one.
    pub fn new(out: W) -> Self {
        Cpio { out, inode: 0 }
    }

    /// Adds a folder. Folders come before what is in them.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, FOLDER | 0o755, &[])
    }

    /// Adds a file.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | permissions, content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, LINK | 0o777, target.as_bytes())
    }

    /// Ends the archive and gives back the writer.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "too long for a cpio archive");
        let size = u32::try_from(content.len()).map_err(too_long)?;
        let name = u32::try_from(path.len() + 1).map_err(too_long)?;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        write!(self.out, "070701")?;
        fields.iter().try_for_each(|field| write!(self.out, "{field:08x}"))?;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(b"\0")?;
        self.pad(110 + path.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    /// Header with name, and content, are padded to a multiple of four each.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..length.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_laid_out_as_the_kernel_reads_it() {
        let mut cpio = Cpio::new(Vec::new());
        cpio.folder("bin").unwrap();
        cpio.file("bin/x", 0o755, b"hello").unwrap();
        cpio.link("bin/y", "x").unwrap();
        let bytes = cpio.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);

        let mut entries = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |number: usize| {
                let start = at + 6 + 8 * number;
                u32::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + name_size - 1]).unwrap();
            assert_eq!(bytes[at + 110 + name_size - 1], 0);
            let content = (at + 110 + name_size).next_multiple_of(4);
            entries.push((name, mode, &bytes[content..content + size]));
            at = (content + size).next_multiple_of(4);
        }
        let expected: Vec<(&str, u32, &[u8])> = vec![
            ("bin", 0o040_755, b""),
            ("bin/x", 0o100_755, b"hello"),
            ("bin/y", 0o120_777, b"x"),
            ("TRAILER!!!", 0, b""),
        ];
        assert_eq!(entries, expected);
    }
}
