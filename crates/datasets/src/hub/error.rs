//! What can go wrong between the Hugging Face Hub and the cache.

use std::io;
use std::path::PathBuf;

use parquet::errors::ParquetError;

use crate::DatasetName;

/// What can go wrong between the Hugging Face Hub and the cache.
///
/// Every message names the address or the file and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The Hub has only data sets that are not built in.
    #[error("the Hub has no {name}, expected cifar10 or cifar100")]
    NotOnHub {
        /// The data set that was asked for.
        name: DatasetName,
    },
    /// Nobody said where downloads may lie.
    #[error("there is no home folder for downloads; set HF_HOME to a folder")]
    NoHome,
    /// `HF_ENDPOINT` is no address.
    #[error("HF_ENDPOINT is {endpoint:?}, expected an address such as https://huggingface.co")]
    BadEndpoint {
        /// What it is.
        endpoint: String,
    },
    /// The file that `SSL_CERT_FILE` names holds no certificates.
    #[error(
        "cannot read certificates from {}, which SSL_CERT_FILE or REQUESTS_CA_BUNDLE names",
        path.display()
    )]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What the system or the reader said, if anything.
        source: Option<io::Error>,
    },
    /// The network is not to be used, and the file was not downloaded before.
    #[error(
        "HF_HUB_OFFLINE is set and {} has no {file} of {repo}; unset it to download",
        cache.display()
    )]
    Offline {
        /// The repository.
        repo: String,
        /// The file in it.
        file: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// There was no connection, or no answer, in time.
    #[error("no answer from {url} within {seconds} s; check the network, or HF_ENDPOINT")]
    NoAnswer {
        /// What was asked for.
        url: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// There was no connection.
    #[error("cannot reach {url}; check the network, or HF_ENDPOINT")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the client said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server refused.
    #[error("{url} answered {status}; {advice}")]
    Refused {
        /// What was asked for.
        url: String,
        /// The status and its name.
        status: String,
        /// What to do.
        advice: &'static str,
    },
    /// The server is none like the Hub.
    #[error(
        "{url} did not answer as the Hub does: expected {expected}; check HF_ENDPOINT, and that no \
         login page stands between"
    )]
    NotTheHub {
        /// What was asked for.
        url: String,
        /// What is missing in the answer.
        expected: &'static str,
    },
    /// The server announces a file that is longer than any of the data sets.
    #[error("{url} has {size} bytes, at most {most} were expected; check HF_ENDPOINT")]
    TooLong {
        /// What was asked for.
        url: String,
        /// Its announced length in bytes.
        size: u64,
        /// The most that are downloaded.
        most: u64,
    },
    /// The server sent nothing more for a while.
    #[error(
        "{url} sent nothing for {seconds} s after {done} of {total} bytes; run the command again to \
         go on from there"
    )]
    Stalled {
        /// What was downloaded.
        url: String,
        /// How long it was waited for.
        seconds: u64,
        /// Bytes that are there.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
    },
    /// The connection ended before the file did.
    #[error(
        "{url} was cut off after {done} of {total} bytes; run the command again to go on from there"
    )]
    CutOff {
        /// What was downloaded.
        url: String,
        /// Bytes that are there.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
        /// What the client said, if anything.
        source: Option<io::Error>,
    },
    /// What arrived is not what was announced.
    #[error("{url} arrived damaged: expected {expected}, found {found}; run the command again")]
    Damaged {
        /// What was downloaded.
        url: String,
        /// The announced length or digest.
        expected: String,
        /// The length or digest that was found.
        found: String,
    },
    /// Another process downloads the same file.
    #[error("another process is downloading {}; wait for it", path.display())]
    Busy {
        /// The unfinished file.
        path: PathBuf,
    },
    /// The system refused to write.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not in Parquet format, or is damaged.
    #[error("{} is not a readable Parquet file; remove it and run the command again", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: ParquetError,
    },
    /// A file lacks a column, or has it in another type.
    #[error("{}: expected a column {column:?} of type {expected}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
        /// Its type.
        expected: &'static str,
    },
    /// A row lacks a value.
    #[error("{}: row {row} has no {column:?}", path.display())]
    Null {
        /// The file.
        path: PathBuf,
        /// The row, counted from 0.
        row: usize,
        /// The column.
        column: &'static str,
    },
    /// A row's image is no PNG, or is damaged.
    #[error(
        "{}: cannot decode the image of row {row}; remove the file, and it is fetched again",
        path.display()
    )]
    Image {
        /// The file.
        path: PathBuf,
        /// The row, counted from 0.
        row: usize,
        /// What the decoder said.
        source: image::ImageError,
    },
    /// A row's image has another size or color.
    #[error("{}: expected 32 × 32 pixels of Rgb8 in row {row}, found {found}", path.display())]
    ImageShape {
        /// The file.
        path: PathBuf,
        /// The row, counted from 0.
        row: usize,
        /// Size and color of the image.
        found: String,
    },
    /// A label is not one of the classes.
    #[error("{}: expected {column:?} from 0 to {last} in row {row}, found {label}", path.display())]
    Label {
        /// The file.
        path: PathBuf,
        /// The row, counted from 0.
        row: usize,
        /// The column.
        column: &'static str,
        /// The label that stands there.
        label: i64,
        /// The last label that there is.
        last: u8,
    },
    /// A file has more rows than any of the data sets has.
    #[error(
        "{}: expected at most {most} rows, found {rows}; remove it and run the command again",
        path.display()
    )]
    TooManyRows {
        /// The file.
        path: PathBuf,
        /// Its rows, as far as they were counted.
        rows: u64,
        /// The most that are read.
        most: u64,
    },
    /// A file has no rows.
    #[error("{} has no rows", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The caller asked to stop.
    #[error("stopped; what was downloaded is kept, and the same command goes on from there")]
    Stopped,
}
